# The MLflow server of docker/compose.yaml, in the version that runs are tracked with.
FROM python:3.12.12-slim-bookworm

COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir -c /tmp/constraints.txt mlflow==3.17.2 psycopg2-binary==2.9.13 \
    && useradd --create-home --uid 10000 mlflow \
    && install -d -o mlflow -g mlflow /artifacts
# A new volume takes over the owner of the folder it is mounted on.
VOLUME /artifacts
USER 10000
EXPOSE 5000
ENTRYPOINT ["mlflow", "server"]
CMD ["--host", "0.0.0.0", "--port", "5000"]
