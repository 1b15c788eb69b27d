"""Defects of the archive, of recovery, and of reading what is old."""

from typing import Final

from bahi.prove.defects.defect import Defect
from bahi.prove.planting import Edit
from eventstore import restoring, trimming, upcasts
from eventstore.archive import PostgresArchive
from eventstore.sealing import Sealing
from projections import recovery

__all__ = ["DEFECTS"]

DEFECTS: Final = (
    Defect(
        name="trimmed-before-archived",
        what="the streams are trimmed by age alone, whether the archive has what goes or not",
        changes=(
            Edit(
                trimming._allowed,
                "return min(sealed or 0, await archive.reached(connection))",
                "return max(sealed or 0, 10**9)",
            ),
            Edit(trimming._make_sure, "if count != upto - after:", "if False:"),
            Edit(
                trimming.trim, "highest = max(limits.values(), default=0)", "highest = min(max(limits.values()), last)"
            ),
        ),
        test="tests/eventstore/test_trimming.py::test_what_is_not_archived_stays",
        why="what is trimmed is older than the time for which an archive lags in a life",
    ),
    Defect(
        name="trimmed-below-the-oldest-pending",
        what="what a worker has in hand is trimmed away",
        changes=(Edit(trimming._limits, "if group.oldest is not None and group.oldest <= limits[each]:", "if False:"),),
        test="tests/eventstore/test_trimming.py::test_what_is_pending_stays_in_its_stream",
        why="nothing is pending for as long as the hot hours",
    ),
    Defect(
        name="archive-accepts-a-hole",
        what="a batch that does not continue what is archived is stored all the same",
        changes=(Edit(PostgresArchive.store, "if raw.position != expected:", "if False:"),),
        test="tests/projections/test_archive.py::test_a_batch_that_does_not_continue_the_checkpoint_is_refused",
        why="who reads the log for the archive gives it no batch with a hole",
    ),
    Defect(
        name="checkpoint-before-events",
        what="the checkpoint is moved first, and whatever fails then is not archived",
        changes=(
            Edit(
                PostgresArchive.store,
                "    await self._copy(connection, new)\n",
                "    async with self.engine.begin() as first:\n"
                "        moved = {'name': CHECKPOINT + '-moved', 'partition': self.partition, 'position':"
                " new[-1].position}\n"
                "        await first.execute(insert(checkpoint).values(moved).on_conflict_do_update(\n"
                "            index_elements=['name', 'partition'], set_={'position': new[-1].position}))\n"
                "    await self._copy(connection, new)\n",
            ),
            Edit(
                PostgresArchive.last_position,
                "return await self.reached(connection)",
                "return await connection.scalar(_REACHED, {'name': CHECKPOINT + '-moved', 'partition':"
                " self.partition}) or await self.reached(connection)",
            ),
        ),
        test="tests/projections/test_projector.py::test_a_connection_killed_between_archive_and_projections_leaves_nothing",
        why="a transaction is one call at the gate: nothing strikes within it",
    ),
    Defect(
        name="seal-skipped-after-a-restart",
        what="a sealer that starts anew begins with what comes next, and leaves a gap in the chain",
        changes=(
            Edit(
                Sealing._read,
                "    it.take(raws)\n",
                "    it.take(raws if it.head is None or it.leaves else raws[1:])\n",
            ),
        ),
        test="tests/projections/test_sealing.py::test_two_writers_that_alternate_make_one_chain",
        why="a simulated life does not verify its seals",
    ),
    Defect(
        name="recovery-forgets-the-halts",
        what="after Redis was lost nobody is halted any more",
        changes=(
            Edit(
                restoring.restore_halts,
                "names = {log.keys.halt(user_id): halt_latch(event) for user_id, event in halts.items()}",
                "names: dict[str, str] = {}",
            ),
        ),
        test="tests/projections/test_rebuild.py::test_everything_in_redis_comes_back_as_it_was",
        why="a halt and the loss of Redis seldom meet in one life",
    ),
    Defect(
        name="position-used-again",
        what="a restored log goes on at the position before the archive's end",
        changes=(
            Edit(
                recovery._clear,
                "await clear(redis, keys, archived, recorded_at,",
                "await clear(redis, keys, max(0, archived - 1), recorded_at,",
            ),
        ),
        test="tests/engine/test_recovery.py::test_it_is_told_and_the_numbers_go_on",
        why="the loss of Redis is proven by lives of its own",
    ),
    Defect(
        name="in-doubt-not-marked",
        what="after a loss strategies place orders before the book was read",
        changes=(Edit(recovery._restore, "if in_doubt(state, log.clock.now() + policy.skew)", "if False"),),
        test="tests/engine/test_recovery.py::test_an_entry_whose_intent_was_lost_is_adopted_and_not_placed_again",
        why="the loss of Redis is proven by lives of its own",
    ),
    Defect(
        name="upcast-skipped",
        what="an event of an earlier schema is read as if it were one of today",
        changes=(Edit(upcasts.upcast, "    while (step :=", "    while False and (step :="),),
        test="tests/eventstore/test_envelope.py",
        why="a simulated life has no events of an earlier release",
    ),
)
