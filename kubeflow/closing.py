"""Updates the database of ML Metadata when a run on Kubeflow has ended."""

from __future__ import annotations

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from components.metadata import FAILED, read_steps
from pipeline.lineage.graph import PIPELINE_RUN, PUSHED
from pipeline.lineage.run_summary import ENDED


def close_run(store: MetadataStore, run: str, succeeded: bool) -> bool | None:
    """Marks the executions of a finished run that are still recorded as running as cancelled.

    A run that did not succeed gets the property `ended`, because a task can fail before it records anything.

    Returns:
        Whether the run pushed its model; None if the run did not reach the Pusher, or is not recorded.
    """
    context = store.get_context_by_type_and_name(PIPELINE_RUN, run)
    if context is None:
        return None
    executions = store.get_executions_by_context(context.id)
    left = [one for one in executions if one.last_known_state == metadata_store_pb2.Execution.RUNNING]
    for execution in left:
        execution.last_known_state = metadata_store_pb2.Execution.CANCELED
    if left:
        store.put_executions(left)
    if not succeeded:
        ended = metadata_store_pb2.Context(id=context.id, type_id=context.type_id, name=run)
        ended.custom_properties[ENDED].string_value = FAILED
        store.put_contexts([ended], field_mask_paths=[f"custom_properties.{ENDED}"])
    _, outputs = read_steps(store, run)
    pushed = outputs.get(("Pusher", "pushed_model"))
    return bool(pushed.properties.get(PUSHED)) if pushed else None
