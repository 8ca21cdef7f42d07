"""Where settings come from, and what a mistake in them looks like."""

import pytest

from agentloop import settings
from agentloop.errors import SettingError
from agentloop.project import CHECKOUT


@pytest.fixture
def config(tmp_path, monkeypatch):
    file = tmp_path / "agentloop.toml"
    file.write_text("seed = 1\n[training]\nrank = 32\nepochs = 5\nlearning_rate = 0.5\n")
    monkeypatch.setenv(settings.CONFIG_VARIABLE, str(file))
    return file


def test_the_later_source_wins(config, monkeypatch):
    monkeypatch.setenv("AGENTLOOP_TRAINING__EPOCHS", "7")
    monkeypatch.setenv("AGENTLOOP_TRAINING__LEARNING_RATE", "0.25")
    monkeypatch.setenv("AGENTLOOP_TRAINING__OPTIMIZER_BITS", "8")
    monkeypatch.setenv("AGENTLOOP_TRAINING__MEMORY_BUDGET", "4.15")
    loaded = settings.load(["training.learning_rate=0.125"], profile="demo")
    assert loaded.training.learning_rate == 0.125  # command line
    assert loaded.training.epochs == 7  # environment
    assert (loaded.training.optimizer_bits, loaded.training.memory_budget) == (8, 4.15)
    assert loaded.training.rank == 32 and loaded.seed == 1  # file
    assert loaded.campaign == "demo"  # profile
    assert loaded.training.max_grad_norm == 1.0  # default


def test_values_keep_their_types():
    loaded = settings.load(
        ["serving.extra_arguments=['--enforce-eager']", "gate.control=false", "model=abc", "training.rank=8"]
    )
    assert loaded.serving.extra_arguments == ("--enforce-eager",)
    assert loaded.gate.control is False and loaded.model == "abc" and loaded.training.rank == 8


def test_relative_roots_are_the_projects():
    assert settings.load(["paths.data=elsewhere"]).paths.data == CHECKOUT / "elsewhere"
    assert settings.load(["paths.data=/somewhere"]).paths.shards.as_posix() == "/somewhere/shards"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainin.rank=8"], "trainin: unknown setting"),
        (["training.rnk=8"], "training.rnk: unknown setting"),
        (["training.rank=7"], "training.rank: .*8, 16"),
        (["training.epochs=0"], "training.epochs: "),
        (["training.optimizer_bits=16"], "training.optimizer_bits: .*32 or 8"),
        (["training.memory_budget=0"], "training.memory_budget: .*auto or a number above 0"),
        (["training.memory_budget=nan"], "training.memory_budget: .*auto or a number above 0"),
        (["training.memory_budget=lean"], "training.memory_budget: .*auto or a number above 0"),
        (["training.memory_budget=[4]"], "training.memory_budget: .*auto or a number above 0"),
        (["training.epochs=many"], "training.epochs: "),
        (["training.learning_rate=nan"], "training.learning_rate: .*finite"),
        (["training.learning_rate=inf"], "training.learning_rate: .*finite"),
        (["collect.episode_seconds=1e999"], "collect.episode_seconds: .*finite"),
        (["collect.tasks=99999999999999999999"], "collect.tasks: .*less than or equal to 1000000"),
        (["evaluate.tasks=1000001"], "evaluate.tasks: .*less than or equal to 1000000"),
        (["iterations=4294967296"], "iterations: .*less than 2147483648"),
        (["collect.tasks=true"], "collect.tasks: must not be true or false"),
        (["gate.guards.database.tasks=true"], "gate.guards.database.tasks: must not be true or false"),
        (["collect.tasks=1.5"], "collect.tasks: "),
        (["collect.tasks=[1]"], "collect.tasks: "),
        (["collect.tasks={a=1}"], "collect.tasks: "),
        (["seed=٣"], "seed: "),
        (["seed=" + "9" * 5000], "seed: "),
        (["seed=" + "[" * 5000], "seed: "),
        (["seed=1\nmodel='x'"], "seed: "),
        (["training.targets=[]"], "training.targets: "),
        (["campaign="], "campaign: "),
        (["campaign=a\nb"], "campaign: "),
        (["campaign=" + "a" * 5000], "campaign: "),
        (["paths.data="], "paths.data: must not be empty"),
        (["paths.data=x\ny"], "paths.data: must not contain control characters"),
        (["paths.data=x\0y"], "paths.data: must not contain control characters"),
        (["paths.data=\udcff"], "paths.data: .* is not valid UTF-8"),
        (["paths.data.x=3"], "paths.data: "),
        (["paths=3"], "paths: "),
        (["selection.recipe="], "selection.recipe: "),
        (["selection.recipe=" + "a" * 5000 + ".sql"], "selection.recipe: "),
        (["selection.recipe=a\0b.sql"], "selection.recipe: "),
        (["selection.benchmarks="], "selection.benchmarks: must not be empty"),
        (["serving.extra_arguments=x"], "serving.extra_arguments: "),
        (["gate.guards=3"], "gate.guards: "),
        (["training.rank=8", "training=3"], "training: given as a whole, and training.rank by itself"),
        (["training.rank=8", "training={rank=16}"], "training: given as a whole, and training.rank by itself"),
        (["training.rank.x=3"], "training.rank: "),
        (["training.=3"], "training.: unknown setting"),
        (["..x=3"], "..x: unknown setting"),
        (["=3"], "=3: an override is written"),
        (["a" * 5000 + "=3"], "a*: unknown setting"),
        (["campaign=Not A Name"], "campaign: "),
        (["training=3"], "training: "),
        (["rank"], "rank: an override is written"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(words, message):
    with pytest.raises(SettingError, match=f"^{message}") as error:
        settings.load(words)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500


def test_texts_stay_texts():
    loaded = settings.load(["campaign=2026", "model=1e3", "environment=2026-01-01", "paths.data=[1]"])
    assert (loaded.campaign, loaded.model, loaded.environment) == ("2026", "1e3", "2026-01-01")
    assert loaded.paths.data == CHECKOUT / "[1]"


@pytest.mark.parametrize("name", ["x\0y", "x" * 5000, "x\ny", "", "/etc/passwd"])
def test_a_model_with_an_odd_name(name):
    with pytest.raises(SettingError, match="^model: ") as error:
        settings.load({"model": name}).model_directory()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variable", ["AGENTLOOP_TRAINNG__RANK", "agentloop_sed"])
def test_a_misspelt_variable_of_either_case(monkeypatch, variable):
    monkeypatch.setenv(variable, "8")
    with pytest.raises(SettingError, match=f"^{variable}: unknown"):
        settings.load()


def test_mistakes_in_the_environment_and_the_file(config, monkeypatch):
    monkeypatch.setenv("AGENTLOOP_TRAINNG__RANK", "8")
    with pytest.raises(SettingError, match="AGENTLOOP_TRAINNG__RANK: unknown"):
        settings.load()
    monkeypatch.delenv("AGENTLOOP_TRAINNG__RANK")
    config.write_text("[training]\nrnk = 8\n")
    with pytest.raises(SettingError, match="training.rnk: unknown"):
        settings.load()
    config.write_text("training = [")
    with pytest.raises(SettingError, match=str(config)):
        settings.load()
    config.unlink()
    with pytest.raises(SettingError, match="no file at"):
        settings.load()


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(SettingError, match="demo"):
        settings.load(profile="nope")


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(SettingError, match="^model: 'nope' is not a model directory"):
        settings.load(["model=nope"]).model_directory()


def test_exported_paths_are_the_fixed_ones(tmp_path, monkeypatch):
    import os

    loaded = settings.load([f"paths.data={tmp_path}/data", f"paths.cache={tmp_path}/cache"])
    for name in loaded.child_environment():
        monkeypatch.delenv(name, raising=False)
    loaded.export()
    for name in ("HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT"):
        assert os.environ[name].startswith(f"{tmp_path}/cache")
        monkeypatch.delenv(name)
    assert loaded.paths.shards.is_dir()


def test_roots_are_closed_to_other_users(tmp_path):
    """Also where an older version made them open; a folder that is everybody's stays so."""
    roots = tmp_path / "data", tmp_path / "cache"
    loaded = settings.load([f"paths.data={roots[0]}", f"paths.cache={roots[1]}"])
    loaded.export()
    assert [root.stat().st_mode & 0o777 for root in roots] == [0o700, 0o700]
    for root in roots:
        root.chmod(0o755)
    loaded.export()
    assert [root.stat().st_mode & 0o777 for root in roots] == [0o700, 0o700]
    roots[1].chmod(0o1777)
    loaded.export()
    assert roots[1].stat().st_mode & 0o1777 == 0o1777


@pytest.mark.parametrize("given", ["command line", "environment", "file"])
def test_a_setting_that_has_another_name_now_is_told_it(given, tmp_path, monkeypatch):
    words = []
    if given == "command line":
        words = ["training.load_in_4bit=false"]
    elif given == "environment":
        monkeypatch.setenv("AGENTLOOP_TRAINING__LOAD_IN_4BIT", "false")
    else:
        (tmp_path / "own.toml").write_text("[training]\nload_in_4bit = false\n")
        monkeypatch.setenv("AGENTLOOP_CONFIG", str(tmp_path / "own.toml"))
    with pytest.raises(
        SettingError, match='^training.load_in_4bit: is called training.quantization now: "nf4" where'
    ) as told:
        settings.load(words)
    assert "\n" not in str(told.value)
