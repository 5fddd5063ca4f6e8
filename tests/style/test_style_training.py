"""Training: what it learns, what it leaves on disk, and how it goes on."""

import math

import pytest
import torch
from drawn import draw, draw_all, small_features, small_plan

from normwise.errors import InputError
from normwise.style import training
from normwise.style.photographs import Crops, listed
from normwise.style.plan import check_plan, names_of
from normwise.style.progress import resume_file
from normwise.style.schedule import optimizer_for, steps_by_pixels
from normwise.style.style_file import build, load_style
from normwise.style.training import run_training


@pytest.fixture
def material(tmp_path):
    """Photographs and styles."""
    photos = listed([draw_all(tmp_path / "photos", 3)], "photographs")
    return photos, listed([draw_all(tmp_path / "styles", 2, size=(60, 64))], "styles")


def quiet(_step):
    pass


def plan_of(kind, material, **changes):
    photos, styles = material
    wanted = styles[:1] if kind == "one" else styles
    return small_plan(photos, wanted, kind=kind, loss="moments" if kind == "any" else "gram", **changes)


KINDS = ("one", "many", "any")


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_fall(kind, material, tmp_path):
    steps = []
    plan = plan_of(kind, material, steps=40, learning_rate=1e-3)
    style = run_training(plan, small_features(), tmp_path / "out.pt", steps.append)
    assert [step.done for step in steps] == list(range(1, 41))
    by_pixels = steps_by_pixels(40)
    assert [math.isnan(step.style) for step in steps] == [True] * by_pixels + [False] * (40 - by_pixels)
    if kind != "any":  # whose decoder starts fitted
        assert steps[by_pixels - 1].content < steps[0].content
    early, late = steps[by_pixels : by_pixels + 5], steps[-5:]
    assert sum(s.content + 10 * s.style for s in late) < sum(s.content + 10 * s.style for s in early)
    assert style.kind == kind
    assert steps[-1].preview == tmp_path / "out.preview.png"
    assert steps[-1].preview.is_file()


def test_tables_learn_faster_and_the_optimizer_forgets_the_pixels(material, tmp_path, monkeypatch):
    plan = plan_of("many", material, steps=40)
    made, rates = [], []

    def watched(net, learning_rate):
        made.append(optimizer_for(net, learning_rate))
        return made[-1]

    monkeypatch.setattr(training, "optimizer_for", watched)
    run_training(
        plan, small_features(), tmp_path / "out.pt", lambda _: rates.append([g["lr"] for g in made[-1].param_groups])
    )
    weights, tables = (group["params"] for group in made[-1].param_groups)
    assert {p.shape[0] for p in tables} == {len(plan.styles)}
    assert len(weights) + len(tables) == len(list(build("many", plan.net(small_features())).parameters()))
    assert all(rate[1] == pytest.approx(10 * rate[0]) for rate in rates)
    begin = steps_by_pixels(40)
    assert [int(o.state[weights[0]]["step"]) if o.state else 0 for o in made] == [0, begin, 40 - begin]
    assert rates[begin][0] < 0.1 * plan.learning_rate < rates[begin + 3][0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_is_what_was_trained(kind, material, tmp_path):
    style = run_training(plan_of(kind, material, steps=2), small_features(), tmp_path / "out.pt", quiet)
    again = load_style(tmp_path / "out.pt")
    assert again._replace(net=None) == style._replace(net=None)
    for name, value in style.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.preview.png", "out.pt", "photos", "styles"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(kind, material, tmp_path):
    plan, features = plan_of(kind, material), small_features()
    whole = run_training(plan, features, tmp_path / "whole.pt", quiet)

    def stop(step):
        if step.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(plan, features, tmp_path / "parts.pt", stop)
    assert load_style(tmp_path / "parts.pt").trained["steps"] == 3
    assert resume_file(tmp_path / "parts.pt").is_file()
    rest = []
    parts = run_training(plan, features, tmp_path / "parts.pt", rest.append)
    assert [step.done for step in rest] == [4, 5, 6]
    for name, value in whole.net.state_dict().items():
        assert torch.equal(parts.net.state_dict()[name], value)
    assert not resume_file(tmp_path / "parts.pt").exists()


def test_a_kill_costs_what_came_after_the_last_save(material, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", -1.0)
    plan, features = plan_of("one", material), small_features()

    class Killed(BaseException):
        pass

    def kill(step):
        if step.done == 4:
            raise Killed

    with pytest.raises(Killed):
        run_training(plan, features, tmp_path / "out.pt", kill)
    rest = []
    run_training(plan, features, tmp_path / "out.pt", rest.append)
    assert [step.done for step in rest] == [5, 6]


def test_other_settings_do_not_go_on_with_it(material, tmp_path):
    def stop(_step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(plan_of("one", material), small_features(), tmp_path / "out.pt", stop)
    before = resume_file(tmp_path / "out.pt").read_bytes()
    with pytest.raises(
        InputError, match=r"with other settings: width was 4, now 8\. Write the same command to continue"
    ):
        run_training(plan_of("one", material, width=8), small_features(), tmp_path / "out.pt", quiet)
    other = small_features()
    other.description = "another network"
    with pytest.raises(InputError, match="features was a small VGG with random weights, now another network"):
        run_training(plan_of("one", material), other, tmp_path / "out.pt", quiet)
    assert resume_file(tmp_path / "out.pt").read_bytes() == before
    resume_file(tmp_path / "out.pt").write_bytes(before[: len(before) // 2])
    with pytest.raises(InputError, match=r"out\.pt\.resume is no file of `normwise stylize train`"):
        run_training(plan_of("one", material), small_features(), tmp_path / "out.pt", quiet)


def test_a_training_that_diverges_says_so_and_keeps_the_file(material, tmp_path):
    plan = plan_of("one", material, learning_rate=1e30, steps=60, norm="none")
    with pytest.raises(InputError, match=r"The training diverged in step \d+; write a --learning-rate below 1e\+30"):
        run_training(plan, small_features(), tmp_path / "out.pt", quiet)


def test_random_numbers_and_threads_are_the_users(material, tmp_path):
    features = small_features()
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run_training(plan_of("one", material, steps=1), features, tmp_path / "out.pt", quiet)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_net_of_any_style_needs_a_trunk(material, tmp_path):
    with pytest.raises(InputError, match="--any needs VGG's encoder up to relu3_1, and the features are a small VGG"):
        run_training(plan_of("any", material), small_features(blocks=2), tmp_path / "out.pt", quiet)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "--steps 0: write a whole number of at least 1"),
        ({"size": 30}, "--size 30: write a multiple of 4 of at least 32"),
        ({"size": 34}, "--size 34: write a multiple of 4"),
        ({"style_size": 31}, "--style-size 31: write a whole number of at least 32"),
        ({"style_weight": -1.0}, "--style-weight -1.0: write a number of at least 0"),
        ({"content_weight": math.nan}, "--content-weight nan"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: write a positive number"),
        ({"loss": "grams"}, "--style-loss grams: write gram or moments"),
        ({"seed": -1}, "--seed -1: write a whole number from 0 to 4294967295"),
        ({"norm": "instanse"}, "--norm: Unknown normalizer 'instanse': did you mean 'instance'"),
    ],
)
def test_settings_that_are_none(changes, said):
    with pytest.raises(InputError, match=said):
        check_plan(small_plan([], ["a.png"], **changes))


def test_crops_depend_on_the_step_alone(material):
    photos, _ = material
    crops = Crops(photos, 32, seed=0)
    fifth = crops(5, 2)
    crops(0, 3)
    assert torch.equal(crops(5, 2), fifth)
    assert torch.equal(Crops(photos, 32, seed=0)(5, 2), fifth)
    assert not torch.equal(Crops(photos, 32, seed=1)(5, 2), fifth)
    assert fifth.shape == (2, 3, 32, 32)


def test_crops_of_a_photograph_of_one_pixel(tmp_path):
    draw(tmp_path / "a.png", (1, 1))
    found = Crops([tmp_path / "a.png"], 32, seed=0)(0, 1)
    assert bool((found == found[..., :1, :1]).all())


def test_what_is_listed(tmp_path):
    draw_all(tmp_path / "a", 2)
    (tmp_path / "a" / "notes.txt").touch()
    draw(tmp_path / "b.jpg")
    names = [path.name for path in listed([tmp_path / "a", tmp_path / "b.jpg"], "photographs")]
    assert names == ["picture0.png", "picture1.png", "b.jpg"]
    with pytest.raises(InputError, match="there is no such file or folder; name photographs by their paths"):
        listed([tmp_path / "c"], "photographs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no picture in this folder; name the folder of your photographs"):
        listed([tmp_path / "empty"], "photographs")


def test_two_styles_of_one_name(tmp_path):
    with pytest.raises(InputError, match="Two styles are named 'wave'"):
        names_of([tmp_path / "a" / "wave.png", tmp_path / "b" / "wave.jpg"])
