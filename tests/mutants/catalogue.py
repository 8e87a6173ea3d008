"""The bugs: one change each, and what must notice it.

They are of the kinds that cost data or money, and were made, or nearly made, by somebody.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """``old`` occurs exactly once in ``file``. ``also`` are places where the same mistake must be
    made for it to be one, each as (file, old, new): where one guard hides that another is gone.
    ``caught_by`` is what follows ``python -m``: pytest with its tests, or the lab with its
    options. It must exit 1.
    """

    name: str
    about: str
    file: str
    old: str
    new: str
    caught_by: tuple[str, ...]
    also: tuple[tuple[str, str, str], ...] = ()

    @property
    def edits(self) -> tuple[tuple[str, str, str], ...]:
        """All its changes, each as (file, old, new)."""
        return ((self.file, self.old, self.new), *self.also)

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests that catch it, none when the lab does."""
        return self.caught_by[1:] if self.caught_by[0] == "pytest" else ()


def planted(text: str, old: str, new: str) -> str:
    """``text`` with the bug. Raises ValueError when its place is gone or not the only one."""
    if (places := text.count(old)) != 1:
        raise ValueError(f"there are {places} places like {old!r}")
    return text.replace(old, new)


def _tests(file: str, *names: str) -> tuple[str, ...]:
    """These tests of a file under ``tests``, all of it without names."""
    path = f"tests/{file}"
    return ("pytest", *([f"{path}::{name}" for name in names] or [path]))


# ruff: noqa: E501 - the names of tests are sentences
MUTANTS = (
    # --- on the hosts
    Mutant(
        name="gate-takes-any-epoch",
        about="a key of an older epoch still reads and writes on the host",
        file="shared/gate/program/epochs.py",
        old="if (current := read_epoch()) != epoch:",
        new="if (current := read_epoch()) != epoch and epoch < 0:",
        caught_by=_tests(
            "contract/test_gate.py",
            "test_a_gpu_that_was_read_under_the_next_epoch_takes_no_more_of_the_old_one",
        ),
    ),
    Mutant(
        name="promotion-leaves-old-jobs",
        about="a promotion answers while a job of the old epoch still writes",
        file="shared/gate/program/promotion.py",
        old="    end_jobs_below(epoch)\n",
        new="",
        caught_by=_tests(
            "contract/test_gate_fencing.py",
            "TestAnEpochThatIsOver::test_has_no_process_left_when_a_promotion_answers_and_changes_no_byte_afterwards",
        ),
    ),
    Mutant(
        name="damaged-promoted",
        about="a generation whose manifest is not its own is put in people's hands",
        file="shared/gate/program/promotion.py",
        old="        newest, files = promotable()\n",
        new="        newest, files = newest_generation(), {}\n",
        also=(
            (
                "shared/gate/program/promotion.py",
                "from .generations import Generation, go_back_to\n",
                "from .generations import Generation, go_back_to, newest_generation\n",
            ),
        ),
        caught_by=_tests(
            "contract/test_gate_damage.py",
            "test_a_generation_whose_manifest_is_not_its_own_is_not_promoted",
        ),
    ),
    Mutant(
        name="late-copy-counts",
        about="a copy on a standby that was lost is taken for one on the next",
        file="services/recovery/domain/mortality.py",
        old="    return host is not None and event.standby in {None, host.id}\n",
        new="    return True\n",
        caught_by=_tests(
            "unit/recovery/test_mortality.py",
            "test_a_copy_on_a_standby_that_is_gone_is_no_copy_however_late_it_is_reported",
        ),
    ),
    Mutant(
        name="spoilt-copy-served",
        about="who wanted an older copy is served the newest, which is spoilt",
        file="shared/gate/program/promotion.py",
        old='                go_back_to(str(payload["generation"]))\n',
        new="                pass\n",
        caught_by=_tests(
            "contract/test_gate_rollback.py",
            "test_the_copy_from_before_is_served_and_what_follows_is_built_on_it",
        ),
    ),
    Mutant(
        name="copy-of-the-very-moment",
        about="a copy that was still being read at the moment counts as from before it",
        file="services/recovery/domain/rollback.py",
        old="copy.sealed_at <= before",
        new="copy.taken_at <= before",
        caught_by=_tests(
            "unit/recovery/test_rollback.py",
            "test_a_copy_that_was_still_being_read_at_that_moment_is_not_from_before_it",
        ),
    ),
    Mutant(
        name="torn-copy-sealed",
        about="a copy that was cut is sealed as a generation, and promoted",
        file="shared/gate/program/copying.py",
        old="    if finished.code not in (0, 24):\n",
        new="    if finished.code < 0:\n",
        caught_by=_tests(
            "contract/test_data_plane.py",
            "TestASyncFromTheGpu::test_of_a_dead_gpu_says_that_nobody_answers",
        ),
    ),
    Mutant(
        name="wiped-source-sealed",
        about="an emptied workspace replaces the copy of a full one",
        file="shared/gate/program/changes.py",
        old="def shrank(",
        new="def shrank(*_: object) -> None:\n    return None\n\n\ndef _shrank(",
        caught_by=_tests(
            "contract/test_data_plane.py",
            "TestASyncFromTheGpu::test_of_a_wiped_source_seals_nothing",
        ),
    ),
    # --- renting
    Mutant(
        name="adopt-skipped",
        about="a machine that carries the label already is rented once more",
        file="services/recovery/adapters/vast.py",
        old="if found := await self.find(order.label):",
        new="if (found := await self.find(order.label)) and len(found) > 1:",
        caught_by=_tests(
            "contract/test_machine_provider.py",
            "test_provisioning_the_same_label_again_rents_nothing_more",
        ),
    ),
    Mutant(
        name="empty-list-is-none",
        about="a list without its rows is read as an account without machines",
        file="shared/clouds/vast.py",
        old='rows = answer.get("instances") if isinstance(answer, dict) else None',
        new='rows = answer.get("instances", []) if isinstance(answer, dict) else []',
        caught_by=_tests(
            "contract/test_vast_client.py", "test_a_list_is_never_taken_for_empty_because_of"
        ),
    ),
    Mutant(
        name="null-is-gone",
        about="a machine that the market does not show yet counts as gone",
        file="services/recovery/adapters/vast.py",
        old="if provider_id in self._seen and not self._is_new(provider_id):",
        new="if provider_id not in self._missing_since or not self._is_new(provider_id):",
        caught_by=_tests(
            "contract/test_machine_provider.py",
            "test_a_machine_that_was_just_rented_is_never_gone_whoever_looked_at_the_list",
        ),
    ),
    Mutant(
        name="unsettled-rented-again",
        about="an order without an answer is placed again before it can have shown up",
        file="services/recovery/adapters/vast.py",
        old="        if until > now:\n",
        new="        if until > now + 1e9:\n",
        caught_by=_tests(
            "contract/test_machine_provider.py",
            "test_a_lost_answer_and_a_late_list_end_in_one_machine",
        ),
    ),
    Mutant(
        name="destroy-believed",
        about="a machine counts as destroyed on the word of the call alone",
        file="services/recovery/adapters/vast.py",
        old='        failpoints.reach("call.after", "vast.destroy")\n        return await _typed(self._client.instance(number)) is None\n',
        new="        return True\n",
        caught_by=_tests(
            "contract/test_machine_provider.py", "test_a_destroy_that_lies_is_not_believed"
        ),
    ),
    Mutant(
        name="attempt-not-in-label",
        about="two attempts of one epoch rent under one label",
        file="services/recovery/domain/labels.py",
        old="-e{state.epoch}-a{state.attempt.number}",
        new="-e{state.epoch}-a1",
        caught_by=_tests(
            "unit/recovery/test_every_failure.py",
            "test_after_every_failure_all_ends_well_once_nothing_fails_any_more",
        ),
    ),
    Mutant(
        name="loser-forgotten",
        about="what an attempt rented that came to nothing is left to the sweeper",
        file="services/recovery/domain/fencing.py",
        old="if attempt.host is not None and attempt.host != state.primary:",
        new="if attempt.host is None and attempt.host != state.primary:",
        caught_by=_tests(
            "unit/recovery/test_every_failure.py",
            "test_after_every_failure_all_ends_well_once_nothing_fails_any_more",
        ),
    ),
    Mutant(
        name="unanswered-rental-forgotten",
        about="a rental whose answer never came is nobody's when its attempt ends",
        file="services/recovery/domain/fencing.py",
        old="elif attempt.label is not None and attempt.host is None:",
        new="elif attempt.label is None and attempt.host is None:",
        caught_by=_tests(
            "unit/recovery/test_every_failure.py",
            "test_whatever_hangs_for_an_hour_nothing_is_rented_twice_and_it_ends_well",
        ),
    ),
    Mutant(
        name="second-gpu-beside-the-first",
        about="a GPU is rented before the last one was seen to its end",
        file="services/recovery/domain/obligations.py",
        old="waiting = waiting or any(ending.billed for ending in state.condemned)",
        new="pass",
        caught_by=_tests(
            "unit/recovery/test_every_failure.py",
            "test_whatever_hangs_for_an_hour_nothing_is_rented_twice_and_it_ends_well",
        ),
    ),
    Mutant(
        name="spending-without-end",
        about="the limits on spending are never reached",
        file="services/recovery/domain/spending.py",
        old="        if total >= maximum:\n",
        new="        if total < 0:\n",
        caught_by=_tests(
            "unit/recovery/test_spending.py",
            "test_a_workspace_that_flaps_is_halted_when_its_incident_costs_too_much",
        ),
    ),
    # --- one primary
    Mutant(
        name="epoch-not-raised",
        about="the standby takes over under the epoch of the GPU that it replaces",
        file="services/recovery/domain/evolution.py",
        old="epoch=state.epoch + 1,  # labels",
        new="epoch=state.epoch,  # labels",
        caught_by=_tests(
            "unit/recovery/test_decider.py",
            "test_a_failover_fences_the_old_gpu_and_starts_a_recovery",
        ),
    ),
    Mutant(
        name="own-look-skipped",
        about="health's word alone fails over a GPU that answers",
        file="services/recovery/domain/verdict.py",
        old="        return _answers(state, look)\n    if sighting is Sighting.SILENT and not",
        new="        pass\n    if sighting is not Sighting.UNKNOWN and not",
        caught_by=_tests(
            "unit/recovery/test_service.py",
            "test_a_gpu_that_answers_is_not_failed_over_whatever_health_says",
        ),
    ),
    Mutant(
        name="unknown-is-dead",
        about="our own trouble counts as the death of a GPU",
        file="services/recovery/domain/verdict.py",
        old="if sighting is Sighting.SILENT and not provider_silent and not held:",
        new="if sighting is not Sighting.ANSWERS:",
        caught_by=_tests(
            "unit/recovery/test_verdict.py",
            "test_nothing_is_dead_but_by_its_providers_word_or_silent_while_the_provider_can_be_asked",
        ),
    ),
    Mutant(
        name="cooldown-ignored",
        about="a GPU that has just come back is failed over again at once",
        file="services/recovery/domain/decider.py",
        old="if served < state.policy.cooldown:",
        new="if served < 0:",
        caught_by=_tests(
            "unit/recovery/test_decider.py",
            "test_a_threshold_within_the_cooldown_is_refused_and_looked_at_again",
        ),
    ),
    Mutant(
        name="old-epoch-heard",
        about="an answer of an older epoch counts as news",
        file="services/recovery/domain/evolution.py",
        old="        case _ if event.epoch != state.epoch:\n            return state\n",
        new="",
        caught_by=_tests(
            "unit/recovery/test_every_failure.py", "test_a_failure_of_an_older_epoch_is_history"
        ),
    ),
    Mutant(
        name="late-delta-believed",
        about="a last delta of an earlier freeze ends a later one: writes in between are lost",
        file="services/recovery/domain/decider.py",
        old="if state.step is not Step.LAST_DELTA or event.round != attempt.round:",
        new="if state.step is not Step.LAST_DELTA:",
        caught_by=_tests(
            "unit/recovery/test_hard_cases.py",
            "test_a_last_pass_of_an_earlier_freeze_does_not_end_a_later_one",
        ),
    ),
    Mutant(
        name="empty-standby-takes-over",
        about="a standby without a generation serves people an empty workspace",
        file="services/recovery/domain/deadlines.py",
        old="(state.standby.lost or not state.generation)",
        new="state.standby.lost",
        caught_by=_tests(
            "unit/recovery/test_hard_cases.py",
            "test_an_empty_standby_does_not_take_over_from_a_late_switch",
        ),
    ),
    Mutant(
        name="restart-forgets-the-endpoint",
        about="an endpoint that forgot where it leads is not pointed again",
        file="services/recovery/keeper.py",
        old="if wanted is Leave.ALONE or wanted == backend:",
        new="if wanted is Leave.ALONE or backend is not None:",
        caught_by=_tests("unit/recovery/test_keeper.py"),
    ),
    Mutant(
        name="old-certificate-signed",
        about="recovery certifies a key for an epoch that is over",
        file="services/recovery/adapters/authority.py",
        old="if not current <= request.epoch <= newest:",
        new="if request.epoch > newest:",
        caught_by=_tests(
            "contract/test_authority.py",
            "TestAServiceIsGiven::test_the_current_epoch_and_the_coming_one_only_where_it_must_run_ahead",
        ),
    ),
    Mutant(
        name="older-assignment-obeyed",
        about="sync obeys an assignment that is older than the one it holds",
        file="services/sync/service.py",
        old="if (new.epoch, new.position) < (held.epoch, held.position):",
        new="if new.position < 0:",
        caught_by=_tests(
            "unit/sync/test_service.py",
            "TestAChangedAssignment::test_that_is_older_changes_nothing",
        ),
    ),
    # --- never in silence
    Mutant(
        name="notice-not-owed",
        about="a halt is in the log and nobody is told",
        file="services/recovery/domain/obligations.py",
        old="for notice in state.notices[:1]",
        new="for notice in state.notices[:0]",
        caught_by=_tests(
            "unit/recovery/test_notices.py", "test_a_halt_owes_people_a_notice_until_they_were_told"
        ),
    ),
    Mutant(
        name="ssh-without-deadline",
        about="a machine that never lets us in is waited for, and paid, for ever",
        file="services/recovery/domain/deadlines.py",
        old="        Step.WAITING_FOR_SSH: lambda",
        new="        Step.NONE: lambda",
        caught_by=_tests(
            "unit/recovery/test_every_failure.py",
            "test_after_every_failure_and_then_silence_nothing_waits_for_ever",
        ),
    ),
    Mutant(
        name="refusal-without-recheck",
        about="a failover refused for a passing reason is never looked at again",
        file="services/recovery/domain/deadlines.py",
        old="        _recheck_over,\n",
        new="",
        caught_by=_tests(
            "unit/recovery/test_decider.py",
            "test_a_threshold_within_the_cooldown_is_refused_and_looked_at_again",
        ),
    ),
    Mutant(
        name="standby-lost-by-hearsay",
        about="health's word alone gives up a standby that answers",
        file="services/recovery/domain/loss.py",
        old="    if sighting is Sighting.ANSWERS:\n",
        new="    if sighting is Sighting.ANSWERS and not suspicion:\n",
        caught_by=_tests(
            "unit/recovery/test_mortality.py",
            "test_a_standby_that_answers_is_not_given_up_whatever_health_says",
        ),
    ),
    Mutant(
        name="stale-copy-promoted",
        about="a copy that is too old is promoted by itself",
        file="services/recovery/domain/freshness.py",
        old="    if age <= bound:\n",
        new="    if age:\n",
        caught_by=_tests(
            "unit/recovery/test_mortality.py",
            "test_a_stale_copy_is_not_promoted_by_itself_and_people_are_told_what_to_do",
        ),
    ),
    Mutant(
        name="only-copy-given-up",
        about="a standby that cannot be started is replaced although it holds the only copy",
        file="services/recovery/domain/mortality.py",
        old="    return ours and on_a_gpu(state)\n",
        new="    return ours\n",
        caught_by=_tests(
            "unit/recovery/test_mortality.py",
            "test_the_only_copy_is_never_given_up_however_often_it_cannot_be_started",
        ),
    ),
    Mutant(
        name="last-disk-destroyed",
        about="where the only copy is gone, the GPU that may still have the data is not kept",
        file="services/recovery/domain/mortality.py",
        old="        replace(c, end=End.STOP, keep=True, orphan=False)\n",
        new="        c\n",
        caught_by=_tests(
            "unit/recovery/test_mortality.py",
            "test_a_person_may_start_the_kept_gpu_of_a_halted_workspace",
        ),
    ),
    # --- the log and the bus
    Mutant(
        name="term-not-checked",
        about="a writer that was replaced still appends",
        file="shared/eventlog/writer.py",
        old="AND term = $1::bigint AND expires_at > clock_timestamp() AND head",
        new="AND $1::bigint > 0 AND head",
        caught_by=_tests(
            "contract/test_eventlog.py",
            "test_a_lease_that_ran_out_is_taken_over_and_its_holder_cannot_write",
        ),
    ),
    Mutant(
        name="version-not-expected",
        about="a decision on an old version of a workspace is appended",
        file="shared/eventlog/writer.py",
        old="WHERE s.version <> (",
        new="WHERE s.version < 0 AND s.version <> (",
        caught_by=_tests(
            "contract/test_eventlog.py", "test_a_decision_on_an_old_version_is_refused"
        ),
        also=(
            (
                "services/recovery/migrations/versions/0001_event_log.py",
                "    hash bytea NOT NULL CHECK (length(hash) = 32),\n    UNIQUE (stream_id, version)\n",
                "    hash bytea NOT NULL CHECK (length(hash) = 32)\n",
            ),
        ),
    ),
    Mutant(
        name="same-fact-twice",
        about="a message delivered again is recorded, and decided on, again",
        file="services/recovery/service.py",
        old="known = await self._log.known({fact.id for fact in facts})",
        new="known = set()",
        caught_by=_tests(
            "unit/recovery/test_once.py",
            "test_a_fact_that_is_delivered_again_is_recorded_and_decided_on_once",
        ),
    ),
    Mutant(
        name="ack-before-log",
        about="a fact is acknowledged before it is in the log",
        file="services/recovery/inbox.py",
        old="    refused = await recovery.listen_all([envelope for _, envelope in facts])\n",
        new="    for delivery, _ in facts:\n        await delivery.ack()\n    refused = await recovery.listen_all([envelope for _, envelope in facts])\n",
        caught_by=_tests(
            "unit/recovery/test_once.py", "test_a_fact_that_recovery_died_over_is_heard_by_the_next"
        ),
    ),
    Mutant(
        name="outcome-of-what-is-not-owed",
        about="the outcome of an effect that was given up meanwhile is recorded",
        file="services/recovery/service.py",
        old="still_wanted=lambda state: effect in pending(state)",
        new="still_wanted=lambda state: bool(pending)",
        caught_by=_tests(
            "unit/recovery/test_once.py",
            "test_what_was_concluded_while_a_person_said_otherwise_is_not_recorded",
        ),
    ),
    Mutant(
        name="relay-skips",
        about="the relay leaves out what follows a gap in its batch",
        file="services/recovery/relay.py",
        old="after=published, limit=BATCH",
        new="after=published + 1, limit=BATCH",
        caught_by=_tests(
            "unit/recovery/test_relay.py",
            "test_everything_in_the_log_is_published_once_in_order_and_remembered",
        ),
    ),
    Mutant(
        name="counted-before-published",
        about="the relay counts as said what the bus did not take",
        file="services/recovery/relay.py",
        old="        await self._bus.publish_all(\n",
        new="        self._published = envelopes[-1].position\n        await self._bus.publish_all(\n",
        caught_by=_tests(
            "unit/recovery/test_relay.py", "test_a_lost_bus_is_waited_for_and_nothing_is_left_out"
        ),
        also=(
            (
                "services/recovery/relay.py",
                "            except BusError as error:\n                self._published = None\n",
                "            except BusError as error:\n",
            ),
        ),
    ),
    Mutant(
        name="relay-without-term",
        about="a relay that was replaced goes on publishing",
        file="services/recovery/relay.py",
        old="        await self._log.advance(published, term=term)  # refused when another has taken over\n",
        new="",
        caught_by=_tests(
            "unit/recovery/test_relay.py", "test_nothing_is_published_without_a_live_term"
        ),
    ),
    Mutant(
        name="older-stream-not-filled",
        about="a stream that lost its newest events is not filled again",
        file="services/recovery/relay.py",
        old="        if position < cursor:\n",
        new="        position = max(position, cursor)\n        if position < 0:\n",
        caught_by=_tests(
            "unit/recovery/test_relay.py", "test_a_stream_that_came_back_older_gets_what_it_lacks"
        ),
    ),
)
