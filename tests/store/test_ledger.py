import pytest

from agentloop.errors import StoreError
from agentloop.records import Evaluation, Policy, Sampling
from agentloop.settings import load
from agentloop.store import campaigns, evaluations, policies
from agentloop.store.ledger import Ledger

STEP = {"campaign": "main", "iteration": 1, "name": "collect"}


def collect(database) -> None:
    database.execute("INSERT INTO collected VALUES ('main', 1, 'collect', 'traj_0')")


def test_a_step_is_done_once_and_keeps_its_first_result(database):
    ledger = Ledger(database)
    assert ledger.done("step_1") is None
    ledger.start("step_1", **STEP)
    assert ledger.done("step_1") is None
    ledger.record("step_1", **STEP, result={"shards": ["a", "b"]})
    ledger.record("step_1", **STEP, result={"shards": []})
    ledger.start("step_1", **STEP)
    ledger.fail("step_1", **STEP, error="too late")
    assert ledger.done("step_1") == {"shards": ["a", "b"]}


def test_a_failed_step_is_tried_again(database):
    ledger = Ledger(database)
    ledger.start("step_1", **STEP)
    ledger.fail("step_1", **STEP, error="the server ended")
    assert ledger.done("step_1") is None
    assert database.execute("SELECT status, error, tries FROM steps") == [("failed", "the server ended", 1)]
    ledger.start("step_1", **STEP)
    ledger.record("step_1", **STEP, result=0)
    assert ledger.done("step_1") == 0
    assert database.execute("SELECT status, error, tries FROM steps") == [("done", None, 2)]


def test_no_step_has_the_result_none(database):
    with pytest.raises(ValueError, match="collect"):
        Ledger(database).record("step_1", **STEP, result=None)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTLOOP_CONFIG", str(tmp_path / "agentloop.toml"))
    (tmp_path / "agentloop.toml").write_text("")


@pytest.mark.parametrize(
    "change",
    [
        "model=other",
        "environment=sql",
        "seed=1",
        "agent.max_turns=3",
        "training.rank=32",
        "selection.per_task=5",
        "collect.samples=4",
        "serving.dtype=float16",
        "serving.base=original",
    ],
)
def test_a_campaign_is_not_continued_with_other_defining_settings(database, change):
    campaigns.register(database, load(["campaign=main"]))
    collect(database)
    name, _, value = change.partition("=")
    with pytest.raises(StoreError, match=f"^{name}: campaign 'main' began with .*{value}") as refused:
        campaigns.register(database, load(["campaign=main", change]))
    assert "\n" not in str(refused.value)
    campaigns.register(database, load(["campaign=other", change]))
    assert set(campaigns.names(database)) == {"main", "other"}


@pytest.mark.parametrize(
    "change",
    [
        "iterations=9",
        "collect.concurrency=3",
        "serving.port=8123",
        "prefect_port=4201",
        "paths.data=elsewhere",
        "training.checkpoint_steps=7",
        "training.memory_budget=4.15",
    ],
)
def test_a_campaign_is_continued_with_other_free_settings(database, change):
    campaigns.register(database, load(["campaign=main"]))
    collect(database)
    settings = load(["campaign=main", change])
    campaigns.register(database, settings)
    # how somebody is told is nobody else's affair, and may be a secret
    assert campaigns.settings_json(database, "main") == settings.model_dump(mode="json", exclude={"notify"})


def test_a_setting_that_the_campaign_began_without_did_what_is_the_default(database):
    campaigns.register(database, load(["campaign=main"]))
    collect(database)
    database.execute(
        """
        UPDATE campaigns
        SET defining = json_merge_patch(defining, '{"training.rank": null}'),
            settings = json_merge_patch(settings, '{"training": {"rank": null}}')
        """
    )
    campaigns.register(database, load(["campaign=main"]))
    with pytest.raises(StoreError, match="^training.rank: campaign 'main' began with 16, now it is 32"):
        campaigns.register(database, load(["campaign=main", "training.rank=32"]))
    with pytest.raises(StoreError, match="^gate.guards.database.alpha: "):
        campaigns.register(database, load(["campaign=main", "gate.guards.database.tasks=9"]))


def test_a_setting_that_defines_campaigns_only_since_this_one_began(database):
    """Its value is known all the same: that of the newest run."""
    campaigns.register(database, load(["campaign=main", "serving.base=original"]))
    collect(database)
    database.execute("UPDATE campaigns SET defining = json_merge_patch(defining, '{\"serving.base\": null}')")
    campaigns.register(database, load(["campaign=main", "serving.base=original"]))
    with pytest.raises(StoreError, match="^serving.base: campaign 'main' began with 'original'"):
        campaigns.register(database, load(["campaign=main"]))


def test_what_an_older_version_counted_among_what_defines_a_campaign_may_be_free(database):
    """As the port was: who was told to set another one could not go on."""
    campaigns.register(database, load(["campaign=main"]))
    collect(database)
    database.execute("UPDATE campaigns SET defining = json_merge_patch(defining, '{\"prefect_port\": 4560}')")
    campaigns.register(database, load(["campaign=main", "prefect_port=4574"]))


@pytest.mark.parametrize(("in_4bit", "kind", "other"), [(True, "nf4", "none"), (False, "none", "nf4")])
def test_a_campaign_of_the_time_of_load_in_4bit_goes_on_as_it_began(database, in_4bit, kind, other):
    campaigns.register(database, load(["campaign=main"]))
    collect(database)
    value = str(in_4bit).lower()
    database.execute(
        f"""
        UPDATE campaigns
        SET defining = json_merge_patch(defining, '{{"training.quantization": null, "training.load_in_4bit": {value}}}'),
            settings = json_merge_patch(settings, '{{"training": {{"quantization": null, "load_in_4bit": {value}}}}}')
        """
    )
    automatic = load(["campaign=main"])
    assert campaigns.quantization(database, automatic) == kind
    campaigns.register(database, automatic, quantization=kind)
    assert campaigns.quantization(database, automatic) == kind
    campaigns.register(database, load(["campaign=main", f"training.quantization={kind}"]))
    with pytest.raises(
        StoreError, match=f"^training.quantization: campaign 'main' began with '{kind}', now it is '{other}'"
    ):
        campaigns.register(database, load(["campaign=main", f"training.quantization={other}"]))


def test_what_auto_meant_at_first_stays_once_it_has_begun(database):
    automatic = load(["campaign=main"])
    assert campaigns.quantization(database, automatic) is None
    campaigns.register(database, automatic, quantization="dynamic")
    assert campaigns.quantization(database, automatic) == "dynamic"
    assert campaigns.quantization(database, load(["campaign=main", "model=other"])) is None
    campaigns.register(database, load(["campaign=main", "training.quantization=nf4"]))
    # nothing has been collected with it: whoever takes it back is free again
    assert campaigns.quantization(database, automatic) is None


def test_until_a_campaign_has_collected_it_begins_anew_with_other_settings(database):
    """What was measured before then is no part of it; it is of every other campaign."""
    about = {"policy": "policy_1", "tasks": ("task_1",), "samples": 1, "seed": 0}
    for name in ("main", "other"):
        campaigns.register(database, load([f"campaign={name}"]))
        measured = Evaluation(**about, successes=((True,),), sampling=Sampling(max_turns=3))
        evaluations.save(database, measured, campaign=name, iteration=0, role="champion")
        database.execute("INSERT INTO collected VALUES (?, 0, 'evaluate', 'traj_1')", [name])
        ledger = Ledger(database)
        ledger.start(name, campaign=name, iteration=0, name="measure")
        ledger.record(name, campaign=name, iteration=0, name="measure", result=measured.id)
    changed = load(["campaign=main", "agent.max_turns=5", "model=other"])
    campaigns.register(database, changed)
    assert campaigns.settings_json(database, "main") == changed.model_dump(mode="json", exclude={"notify"})
    for table in ("evaluation_uses", "collected", "steps"):
        assert database.execute(f"SELECT campaign FROM {table}") == [("other",)]
    again = Evaluation(**about, successes=((False,),), sampling=Sampling(max_turns=5))
    evaluations.save(database, again, campaign="main", iteration=0, role="champion")
    assert [evaluations.load(database, each.id) for each in (measured, again)] == [measured, again]
    campaigns.register(database, changed)
    collect(database)
    with pytest.raises(StoreError, match="^agent.max_turns: campaign 'main' began with 5, now it is 6"):
        campaigns.register(database, load(["campaign=main"]))
    assert database.execute("SELECT count(*) FROM evaluation_uses") == [(2,)]


def test_a_campaign_whose_episodes_all_failed_has_collected(database):
    campaigns.register(database, load(["campaign=main"]))
    database.execute("INSERT INTO shard_uses VALUES (1, 'main', 1, 'collect')")
    with pytest.raises(StoreError, match="^seed: "):
        campaigns.register(database, load(["campaign=main", "seed=1"]))


def test_an_unknown_campaign_is_named(database):
    with pytest.raises(StoreError, match="no campaign named 'main'"):
        campaigns.settings_json(database, "main")


def test_an_iteration_begins_anew_until_it_has_ended(database):
    for champion in (None, "adapter_rolled_back_to"):
        campaigns.begin_iteration(database, "main", 1, champion=champion)
    campaigns.finish_iteration(database, "main", 1)
    (ended,) = database.execute("SELECT * FROM iterations")
    assert ended[2] == "adapter_rolled_back_to" and ended[4] is not None
    campaigns.begin_iteration(database, "main", 1, champion="adapter_late")
    campaigns.finish_iteration(database, "main", 1)
    assert database.execute("SELECT * FROM iterations") == [ended]


def test_policies_come_back(database):
    policy = Policy("base_1", "adapter_1", "plain/1")
    policies.save(database, policy)
    policies.save(database, policy)
    assert policies.load(database, policy.id) == policy
    with pytest.raises(StoreError, match="policy_0"):
        policies.load(database, "policy_0")
