import json

import pytest

from overnet.errors import InputError
from overnet.training.settings import PRESETS, read_settings, settings_from


def test_the_original_recipe_is_the_papers():
    original = PRESETS["original"]
    assert (original.patch, original.batch, original.steps) == (64, 64, 600_000)
    assert (original.optimiser, original.learning_rate, original.halve_every) == ("adamp", 1e-3, 150_000)
    assert (original.clip, original.augment, original.schedule, original.ema) == (10, True, "halving", 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_json(preset):
    settings = PRESETS[preset]
    again = settings_from(json.loads(json.dumps(settings.to_json())), PRESETS["multiscale"], name="test")
    assert again == settings


def test_a_file_goes_over_the_preset(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"learning_rate": 1, "scales": [2, 2.5], "minutes": 3}')
    settings = read_settings(path, PRESETS["multiscale"])
    assert (settings.learning_rate, settings.scales, settings.minutes, settings.steps) == (1.0, (2.0, 2.5), 3, None)
    assert settings.batch == PRESETS["multiscale"].batch


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"rate": 1}', "no setting 'rate'"),
        ('{"batch": "many"}', "batch is not a whole number: 'many'"),
        ('{"batch": true}', "batch is not a whole number: True"),
        ('{"batch": 2.5}', "batch is not a whole number: 2.5"),
        ('{"scales": "2"}', "scales is not a list: '2'"),
        ('{"learning_rate": NaN}', "learning_rate is not a finite number: nan"),
        ("[1]", "not a JSON object"),
        ("{", "not JSON, or damaged"),
    ],
)
def test_wrong_files_are_refused_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_settings(path, PRESETS["multiscale"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "must be more than 0"),
        ({"steps": None}, "in steps or in minutes"),
        ({"steps": 5, "minutes": 5}, "in steps or in minutes"),
        ({"batch": 6, "accumulate": 4}, "4 equal parts"),
        ({"scales": []}, "no scale"),
        ({"int8": True}, "int8 is for the plain networks, not for overnet"),
        ({"scales": [6]}, "at most the overscale factor, 5"),
        ({"scales": [1]}, "must be above 1"),
        ({"scales": [2.3]}, "no whole number of pixels at scale 2.3"),
        ({"patch": 12}, "multiple of 8"),
        ({"optimiser": "sgd"}, "optimiser is 'sgd'"),
        ({"loss": "huber"}, "loss is 'huber'; it must be one of l1, l2"),
        ({"ema": 1.0}, "ema is 1.0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        settings_from(changes, PRESETS["multiscale"], name="test")
