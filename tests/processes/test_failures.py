import pytest

from glm_scale.processes.failures import Death, cause_of, last_words

TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\nValueError: bad'


@pytest.mark.parametrize(
    "words",
    [
        "RuntimeError: [third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1",
        "RuntimeError: … Read error [127.0.0.1]:4242: Connection reset by peer",
        "DistBackendError: NCCL error …\nncclRemoteError: A call failed, possibly by a network error",
        "torch.distributed.DistNetworkError: The client socket has timed out after 60000ms",
        "RuntimeError: Application timeout caused pair closure",
    ],
)
def test_lost_connections_are_consequences(words: str) -> None:
    lost, failed = Death(0, 1, words), Death(1, 1, TRACEBACK)
    assert lost.is_consequence
    assert cause_of([lost, failed]) is failed
    assert cause_of([lost, Death(2, 1, words)]) is lost


def test_first_of_two_causes_counts() -> None:
    first, second = Death(3, -9), Death(1, 1, TRACEBACK)
    assert cause_of([first, second]) is first
    assert first.exit_code == 137
    assert "memory" in str(first)


def test_last_words_begin_at_the_last_traceback() -> None:
    assert last_words(f"{TRACEBACK}\nwent on\nnoise\n{TRACEBACK}\n[W] process group not destroyed\n") == (
        f"{TRACEBACK}\n[W] process group not destroyed"
    )


def test_last_words_include_what_led_to_the_last_traceback() -> None:
    link = "\n\nThe above exception was the direct cause of the following exception:\n\n"
    assert last_words(f"noise\n{TRACEBACK}{link}{TRACEBACK}") == f"{TRACEBACK}{link}{TRACEBACK}"


def test_last_words_know_how_torch_writes_tracebacks() -> None:
    lines = [*TRACEBACK.splitlines(), "", "During handling of the above exception, another exception occurred:", ""]
    marked = "\n".join(f"[rank1]: {line}" for line in [*lines, *TRACEBACK.splitlines()])
    assert last_words(f"noise\n{marked}\n") == marked


def test_last_words_are_the_message_for_the_user() -> None:
    assert last_words("noise\nerror: no such file\n") == "error: no such file"


def test_last_words_without_an_error_are_the_last_lines() -> None:
    assert last_words("\n".join(map(str, range(100)))).splitlines() == [str(n) for n in range(80, 100)]
    assert last_words("") == ""
