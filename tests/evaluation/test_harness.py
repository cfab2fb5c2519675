"""Our model as one of lm-eval: what tasks come to, on data from files, without a network."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_data import BuildConfig, build
from glm_scale.errors import UserError
from glm_scale.evaluation.answering import Answers, Recorder
from glm_scale.evaluation.evaluating import evaluate_tasks
from glm_scale.evaluation.harness import TrainedHarnessModel
from glm_scale.evaluation.loading import Chosen, load_tasks
from glm_scale.evaluation.measuring import measure
from glm_scale.evaluation.recall import CHOICES, questions
from glm_scale.evaluation.scoring import Score
from glm_scale.inference import LoadedModel
from glm_scale.inference.evaluation import evaluate_model
from glm_scale.run_directory import RunDirectory
from tests.evaluation.local_tasks import choice_task, task_file, text_task
from tests.tiny_run import LENGTH


def test_the_loss_of_a_text_is_that_of_our_own_evaluation(
    loaded: LoadedModel, trained: RunDirectory, data: Path, tmp_path: Path
) -> None:
    """Windows of the same tokens behind the same first token: a text of a whole number of windows, of which our own
    evaluation reads all but the end of the document."""
    draw = random.Random(7)
    text, windows = "", 3
    while len(loaded.tokenizer.encode(text)) != windows * LENGTH:
        text = "".join(draw.choices("abcdefgh ", k=draw.randint(2 * LENGTH, 4 * LENGTH))).strip()
    source, output = tmp_path / "text.jsonl", tmp_path / "data"
    source.write_text(json.dumps({"text": text}))
    build(BuildConfig(inputs=[source], output=output, tokenizer=data, validation_fraction=0.0, workers=1))
    ours = evaluate_model(loaded, output, "train", None, None)
    results = evaluate_tasks(loaded, trained.path, Chosen((str(text_task(tmp_path, text)),)))
    theirs = results.tasks["prose"].metrics["bits_per_byte"]
    with torch.no_grad():
        tokens = loaded.tokenizer.encode(text)
        last = loaded.model(torch.tensor([tokens[-1:]])).log_softmax(-1)[0, -1, loaded.tokenizer.eos]
    assert ours.tokens == windows * LENGTH + 1, "the end of the document is one more"
    without_end = (ours.nats + float(last)) / math.log(2) / len(text.encode())
    assert theirs == pytest.approx(without_end, abs=1e-4)


def test_a_task_from_a_file_is_what_its_definition_says(
    loaded: LoadedModel, trained: RunDirectory, tmp_path: Path
) -> None:
    path = choice_task(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "choose.jsonl").read_text().splitlines()]
    results = evaluate_tasks(loaded, trained.path, Chosen((str(path),)), batch_tokens=100)
    right = 0
    for row in rows:
        sums = []
        for choice in row["choices"]:
            context = [loaded.tokenizer.bos, *loaded.tokenizer.encode(row["text"])]
            whole = [loaded.tokenizer.bos, *loaded.tokenizer.encode(f"{row['text']} {choice}")][-LENGTH - 1 :]
            with torch.no_grad():
                logits = loaded.model(torch.tensor([whole[:-1]])).log_softmax(-1)[0]
            begin = len(whole) - (len(loaded.tokenizer.encode(f"{row['text']} {choice}")) + 1 - len(context))
            sums.append(sum(float(logits[place - 1, whole[place]]) for place in range(begin, len(whole))))
        right += sums.index(max(sums)) == row["answer"]
    assert results.tasks["choose"].metrics["acc"] == pytest.approx(right / len(rows))
    assert (results.step, results.tasks["choose"].samples, results.tasks["choose"].few_shot) == (6, 10, 0)
    assert evaluate_tasks(loaded, trained.path, Chosen((str(path),), limit=4)).tasks["choose"].samples == 4


def test_examples_stand_in_front_and_are_the_same_every_time(loaded: LoadedModel, tmp_path: Path) -> None:
    chosen = Chosen((str(choice_task(tmp_path, fewshot_split="test")),), few_shot=2)
    tasks = load_tasks(chosen, loaded.tokenizer, LENGTH)
    recorders = [Recorder(loaded.tokenizer, 10 * LENGTH) for _ in range(2)]
    before = random.getstate(), torch.get_rng_state()
    for recorder in recorders:
        results = measure(recorder, tasks, 0, None, lambda length: length)
    assert results.tasks["choose"].few_shot == 2
    assert recorders[0].requests == recorders[1].requests
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    bare = Recorder(loaded.tokenizer, 10 * LENGTH)
    measure(bare, load_tasks(Chosen(chosen.names), loaded.tokenizer, LENGTH), 0, None, lambda length: length)
    assert max(r.read for r in recorders[0].requests) > max(r.read for r in bare.requests)


def test_texts_are_generated_up_to_their_stop(loaded: LoadedModel, trained: RunDirectory, tmp_path: Path) -> None:
    model = TrainedHarnessModel(trained.path, loaded=loaded)
    prompts = ["abc", "bad cab", "h"]

    def answers(**settings: Any) -> list[str]:
        class Asked:
            def __init__(self, prompt: str) -> None:
                self.args = (prompt, settings)

        return model.generate_until([Asked(prompt) for prompt in prompts])

    whole = answers(until=[], max_gen_toks=8)
    for prompt, text in zip(prompts, whole, strict=True):
        tokens = [loaded.tokenizer.bos, *loaded.tokenizer.encode(prompt)]
        begin = len(tokens)
        for _ in range(8):
            with torch.no_grad():
                token = int(loaded.model(torch.tensor([tokens]))[0, -1, : loaded.tokenizer.size].argmax())
            if token == loaded.tokenizer.eos:
                break
            tokens.append(token)
        assert text == loaded.tokenizer.decode(tokens[begin:])
    stop = next(text[2] for text in whole if len(text) > 2)
    assert answers(until=[stop], max_gen_toks=8) == [text.partition(stop)[0] for text in whole]
    with pytest.raises(UserError, match="wants 32 tokens"):
        answers(max_gen_toks=LENGTH)


@pytest.mark.parametrize("task", ["recall_needle", "recall_pairs"])
def test_who_knows_recalls_all_and_who_guesses_a_quarter(loaded: LoadedModel, task: str) -> None:
    length, count = 600, 60
    asked = questions(task, length - 1, lambda text: len(loaded.tokenizer.encode(text)), count)
    assert asked == questions(task, length - 1, lambda text: len(loaded.tokenizer.encode(text)), count)
    for question in asked:
        tokens = len(loaded.tokenizer.encode(question.context)) + 1
        assert 0.8 * length < tokens < length
        assert all(question.context.count(choice) for choice in question.choices)
        assert len(set(question.choices)) == CHOICES
    tasks = load_tasks(Chosen((task,), count, context_lengths=(length,)), loaded.tokenizer, length)
    recorder = Recorder(loaded.tokenizer, length)
    measure(recorder, tasks, 0, count, lambda length: 7)
    assert max(request.read for request in recorder.requests) <= length
    encode = loaded.tokenizer.encode
    right = {tuple(encode(f"{question.context} {question.choices[question.answer]}")) for question in asked}
    known = {
        request: Score(0.0 if (*request.context[1:], *request.continuation) in right else -9.0, True)
        for request in recorder.requests
    }
    draw = random.Random(1)
    guessed = {request: Score(draw.random(), False) for request in recorder.requests}
    for scores, lowest, highest in ((known, 1.0, 1.0), (guessed, 0.05, 0.45)):
        model = Answers(loaded.tokenizer, length, scores)
        found = measure(model, tasks, 3, count, lambda length: 7).tasks[f"{task}_{length}"]
        assert lowest <= found.metrics["acc"] <= highest
        assert (found.context_length, found.cache_bytes, found.samples) == (length, 7, count)


def test_recall_is_asked_at_lengths_and_warned_of(
    loaded: LoadedModel, trained: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = Chosen(("recall_needle", "recall_pairs"), 3, context_lengths=(400, 300))
    results = evaluate_tasks(loaded, trained.path, chosen)
    assert [result.context_length for result in results.tasks.values()] == [300, 400, 300, 400]
    bytes_taken = [result.cache_bytes for result in results.tasks.values()]
    assert bytes_taken[:2] == [loaded.model.cache_bytes(300), loaded.model.cache_bytes(400)]
    assert f"trained on {LENGTH} tokens at a time, and is asked at 400" in caplog.text
    assert "lost their beginning" not in caplog.text
    with pytest.raises(UserError, match="recall_pairs: 15 tokens are too few"):
        load_tasks(Chosen(("recall_pairs",), context_lengths=(16,)), loaded.tokenizer, LENGTH)
    assert Chosen(("recall_needle",)).lengths(2048) == (256, 512, 1024, 2048)


def test_what_cannot_be_had_is_named(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice_task(tmp_path)

    def refused(*names: str, include: Path | None = tmp_path) -> str:
        with pytest.raises(UserError) as caught:
            load_tasks(Chosen(names, include=include), loaded.tokenizer, LENGTH)
        return str(caught.value)

    # The names of all of lm-eval's own tasks take a quarter of a minute to find.
    from lm_eval.tasks import TaskManager

    class Short(TaskManager):
        def __init__(self, **keywords: Any) -> None:
            super().__init__(**keywords | {"include_defaults": False})

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Short)
    assert "no task 'chose'; did you mean choose?" in refused("chose")
    assert "no task 'recall_needel'; did you mean recall_needle" in refused("recall_needel")
    assert f"{tmp_path}/no.yaml: there is no such file" in refused(f"{tmp_path}/no.yaml")
    assert "there is no such folder" in refused("choose", include=tmp_path / "no")
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'somebody/something' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    told = refused("choose")
    assert "task choose: its data cannot be loaded (ConnectionError: Couldn't reach" in told
    assert "HF_HOME" in told
    assert "--tasks my-task.yaml" in told


def test_without_lm_eval_the_user_is_told_what_to_install(
    loaded: LoadedModel, trained: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"pip install 'glm-scale\[eval\]'"):
        evaluate_tasks(loaded, trained.path, Chosen(("recall_needle",)))


def test_texts_that_become_one_token_are_judged_all_the_same(loaded: LoadedModel, tmp_path: Path) -> None:
    """Some tokenizers take the end of a question and the answer for one token."""
    path = task_file(
        tmp_path,
        "merged",
        [{"a": "ab", "b": "c"}],
        output_type="loglikelihood",
        doc_to_text="{{a}}",
        doc_to_target="{{b}}",
        target_delimiter="",
        metric_list=[{"metric": "acc"}],
    )
    recorder = Recorder(loaded.tokenizer, LENGTH)
    recorder.tok_encode = lambda string, add_special_tokens=None, **_: [len(string)]  # type: ignore[method-assign]
    measure(recorder, load_tasks(Chosen((str(path),)), loaded.tokenizer, LENGTH), 0, None, lambda length: 0)
    assert [tuple(request) for request in recorder.requests] == [((loaded.tokenizer.bos,), (3,))]
