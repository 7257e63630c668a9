"""Promises under a storm of faults on live processes: nothing is lost, nothing is done twice, no credit goes astray."""

from __future__ import annotations

import pytest

from tests.chaos.conftest import Scale
from tests.chaos.storm import HEAL_S, Plan, Report, kinds, ride_out, show
from workers.simulator.faults import FAULTS

BOUND_MB = 350

pytestmark = [pytest.mark.own_system, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory, scale: Scale) -> Report:
    """One storm, whose end every test here looks at."""
    plan = (
        Plan(scale.seed, faults=520, jobs=2200, every_s=0.85, weighted=True)
        if scale.full
        else Plan(scale.seed, faults=len(kinds()), jobs=150, every_s=1.2, weighted=False)
    )
    report = ride_out(tmp_path_factory.mktemp("storm"), plan)
    show(report)
    return report


def test_every_kind_of_fault_happened(storm):
    assert storm.broken == []
    assert set(storm.counts()) == set(kinds())
    assert len(storm.injected) >= storm.plan.faults
    # Whatever the provider can do wrong, it did.
    assert storm.provider_faults == set(FAULTS)


def test_every_acknowledged_request_comes_to_its_end(storm):
    assert len(storm.ledger.acknowledged) == storm.plan.jobs
    assert storm.verdict.lost == []


def test_nothing_is_done_twice(storm):
    assert storm.verdict.duplicated == []
    assert storm.ledger.complaints == []


def test_a_request_is_charged_if_and_only_if_it_was_executed(storm):
    assert storm.verdict.wrongly_charged == []


def test_no_credit_goes_astray(storm):
    assert storm.verdict.drift == []


def test_the_audit_finds_nothing_at_any_moment(storm):
    assert storm.findings == []
    assert storm.audits[0] > 0


def test_all_is_quiet_within_a_minute_of_healing(storm):
    assert storm.jobs_ended_s is not None
    assert storm.jobs_ended_s <= HEAL_S
    assert storm.quiet_s is not None
    assert storm.quiet_s <= HEAL_S


def test_messages_are_set_aside_only_for_known_reasons(storm):
    assert storm.verdict.unexplained == []


def test_memory_stays_bounded(storm):
    assert storm.last_mb
    assert max(storm.peak_mb.values()) < BOUND_MB
