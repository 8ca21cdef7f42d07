"""What Prefect's form offers and refuses before a run begins, and which settings come of it."""

import tomllib

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import is_valid_schema, validate

from agentloop import settings as configuration
from agentloop.errors import SettingError
from agentloop.settings import Settings
from agentloop.settings.loading import PROFILES
from agentloop_flows import evaluate, parameters, self_improve, teach, upkeep

FLOWS = {
    "self-improve": self_improve.self_improve,
    "evaluate": evaluate.evaluate,
    "teach": teach.teach,
    "rescore": upkeep.rescore,
    "prune": upkeep.prune,
}


@pytest.fixture(params=FLOWS)
def schema(request):
    """As Prefect deploys it."""
    return parameter_schema(FLOWS[request.param]).model_dump_for_openapi()


def leaves(schema, path=""):
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield from leaves(field, here) if "properties" in field else [(here, field)]


def test_every_field_says_what_it_is(schema):
    is_valid_schema(schema)
    silent = [name for name, field in leaves(schema) if len(field.get("description", "")) < 15]
    assert silent == [] and schema.get("required", []) == []


def every_name(section, prefix=""):
    for name, field in section.model_fields.items():
        nested = hasattr(field.annotation, "model_fields")
        yield from every_name(field.annotation, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]


def test_every_setting_is_there():
    schema = parameter_schema(self_improve.self_improve).model_dump_for_openapi()
    form = {name for name, _ in leaves(schema["properties"]["overrides"])}
    known = set(every_name(Settings))
    assert form == known and "training.grpo.clip_low" in known
    assert set(parameters.NAMES.values()) <= known


@pytest.mark.parametrize("profile", sorted(file.stem for file in PROFILES.glob("*.toml")))
def test_a_profile_and_its_values_are_taken(schema, profile):
    values = tomllib.loads((PROFILES / f"{profile}.toml").read_text(encoding="utf-8"))
    validate({"profile": profile, "overrides": values}, schema, raise_on_error=True)
    assert parameters.load(None, values) == configuration.load(profile=profile)


@pytest.mark.parametrize(
    "given",
    [
        {"profile": "dmo"},
        {"overrides": {"trainin": {"rank": 32}}},
        {"overrides": {"training": {"rnk": 32}}},
        {"overrides": {"training": {"epochs": 0}}},
        {"overrides": {"training": {"quantization": "nf5"}}},
        {"overrides": {"gate": {"guards": {"database": {"margn": 0.1}}}}},
        {"overrides": {"seed": "one"}},
    ],
)
def test_a_typo_is_refused_before_a_run_begins(schema, given):
    assert validate(given, schema) != []


@pytest.mark.parametrize("given", [{"rank": 12}, {"iterations": 0}, {"campaign": "Two Words"}, {"more": "often"}])
def test_what_has_a_name_of_its_own_has_the_setting_s_limits(given):
    schema = parameter_schema(self_improve.self_improve).model_dump_for_openapi()
    assert validate(given, schema) != []


def test_a_name_of_its_own_counts_more():
    overrides = {"training": {"rank": 8, "epochs": 2}, "seed": 3}
    settings = parameters.load("demo", overrides, rank=32, iterations=2, tasks=None)
    assert (settings.training.rank, settings.training.epochs, settings.iterations, settings.seed) == (32, 2, 2, 3)
    assert settings.collect.tasks == configuration.load(profile="demo").collect.tasks
    assert overrides == {"training": {"rank": 8, "epochs": 2}, "seed": 3}
    with pytest.raises(SettingError, match="^training.rank: "):
        parameters.load("demo", {}, rank=12)
