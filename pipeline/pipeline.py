"""The pipeline: from TFRecords to a model that is trained, evaluated and pushed."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from ml_metadata.proto import metadata_store_pb2
from tensorflow_data_validation import StatsOptions
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.components.statistics_gen.component import StatisticsGen
from tfx.components.trainer.component import Trainer
from tfx.components.transform.component import Transform
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import example_gen_pb2, transform_pb2

from components.baseline.component import Baseline
from components.evaluator.component import Evaluator
from components.example_gen.component import ImportExampleGen
from components.example_validator.component import ExampleValidator
from components.pusher.component import Pusher
from components.report.component import Reporter
from components.serving_check.component import ServingCheck
from data.dataset.record import SPLITS
from data.repository import REPOSITORY
from im2latex.errors import UserError
from pipeline.config import Config, flatten
from pipeline.running.beam import beam_arguments
from pipeline.sources import component_files, fingerprint, start_fingerprint
from trainer_module.features import IMAGE, LATEX, NAME

SCHEMA = REPOSITORY / "pipeline" / "schema" / "schema.pbtxt"


def create_pipeline(
    config: Config,
    *,
    data: str,
    pipeline_root: str,
    serving: str,
    checkpoints: str | None = None,
    metadata: metadata_store_pb2.ConnectionConfig | None = None,
    schema: str = str(SCHEMA),
    enable_cache: bool = True,
) -> Pipeline:
    """Creates the pipeline of a configuration; it is the same for every orchestrator.

    Args:
        config: the configuration.
        data: folder of TFRecords in train/, eval/ and test/.
        pipeline_root: folder for artifacts.
        serving: serving folder that blessed models are pushed to.
        checkpoints: folder for checkpoints, from which a killed training continues; None for no checkpoints.
        metadata: the ML Metadata store, for orchestrators that do not have their own.
        schema: file of the curated schema, a text proto.
        enable_cache: whether to reuse outputs that were made from the same inputs, settings and code.

    Raises:
        UserError: the schema cannot be read, or does not fit the records.
    """
    _check_schema(Path(schema))

    # Imports the records, one split per folder, in one spelling; fails at a record that cannot be used.
    splits = [example_gen_pb2.Input.Split(name=split, pattern=f"{split}/*") for split in SPLITS]
    example_gen = ImportExampleGen(
        input_base=data, input_config=example_gen_pb2.Input(splits=splits), spelling=config.data.spelling
    )

    # Imports the curated schema. Its cache key has the file's content, because TFX's has the path only.
    schema_gen = ImportSchemaGen(schema_file=schema)
    schema_gen.exec_properties["code"] = fingerprint(Path(schema).parent, [Path(schema)])

    # Computes statistics of the features; with the schema, it does not count the bytes of images as values. Distinct
    # and frequent values are estimated, because exact counts would hold every name and formula in memory.
    statistics_gen = StatisticsGen(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        stats_options=StatsOptions(use_sketch_based_topk_uniques=True),
    )

    # Fails if the examples do not match the schema; warns or fails if they have drifted from the training data of the
    # serving model.
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema_gen.outputs["schema"],
        examples=example_gen.outputs["examples"],
        serving=serving,
        thresholds=config.drift.thresholds,
        action=config.drift.action,
    )

    # Normalises the images, builds the vocabulary and converts formulas to token ids.
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing_fn="trainer_module.preprocessing.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
        force_tf_compat_v1=False,
        disable_statistics=True,
        disable_analyzer_cache=True,
        custom_config={"config": config.section("image", "vocabulary")},
    )
    # Do not train on examples with anomalies.
    transform.add_upstream_node(example_validator)

    transformed = {
        "examples": transform.outputs["transformed_examples"],
        "transform_graph": transform.outputs["transform_graph"],
        "schema": schema_gen.outputs["schema"],
    }
    further = {"checkpoints": checkpoints} if checkpoints is not None else {}
    if start := start_fingerprint(config.training.start_from):  # makes its content part of the cache key
        further["start_from"] = start

    # Searches hyperparameters with short trainings, if there is tuning.
    tuner = None
    if config.tuning.trials:
        from components.tuner.component import Tuner  # imports Keras Tuner

        tuner = Tuner(
            tuner_fn="trainer_module.tuner.tuner_fn",
            custom_config={"config": config.section("image", "vocabulary", "model", "training", "tuning"), **further},
            **transformed,
        )

    # Trains the model and exports it, with the transformation in its graph.
    trainer = Trainer(
        run_fn="trainer_module.trainer.run_fn",
        hyperparameters=tuner and tuner.outputs["best_hyperparameters"],
        custom_config={
            "config": config.section("image", "vocabulary", "model", "training", "decoding"),
            "spelling": config.data.spelling,
            **further,
        },
        **transformed,
    )

    # Finds the model that is serving now.
    baseline = Baseline(model=trainer.outputs["model"], serving=serving)

    # Evaluates the model on unseen formulas, and blesses it if it passes the gate.
    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["baseline"],
        gate=config.evaluation.gate,
        split=config.evaluation.split,
        robustness=config.evaluation.robustness,
        spelling=config.data.spelling,
    )

    # Reads real images with the model in a fresh process, as a server would.
    serving_check = ServingCheck(
        model=trainer.outputs["model"],
        examples=example_gen.outputs["examples"],
        split=config.evaluation.split,
        images=config.serving.check_images,
        max_seconds=config.serving.max_seconds,
    )
    # Not in parallel with the Evaluator, which would distort the measured times.
    serving_check.add_upstream_node(evaluator)

    # Pushes a model with both blessings to the serving folder, and deletes the oldest versions there.
    pusher = Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_check.outputs["blessing"],
        serving=serving,
        keep=config.serving.keep,
    )

    # Writes the HTML report.
    reporter = Reporter(
        pipeline=config.name,
        settings=flatten(config),
        data=data,
        split=config.evaluation.split,
        serving=serving,
        examples=example_gen.outputs["examples"],
        anomalies=example_validator.outputs["anomalies"],
        transform_graph=transform.outputs["transform_graph"],
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        baseline=baseline.outputs["baseline"],
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        serving_check=serving_check.outputs["blessing"],
        pushed_model=pusher.outputs["pushed_model"],
        tuner_results=tuner and tuner.outputs["tuner_results"],
    )

    components = [
        example_gen,
        schema_gen,
        statistics_gen,
        example_validator,
        transform,
        *([tuner] if tuner else []),
        trainer,
        baseline,
        evaluator,
        serving_check,
        pusher,
        reporter,
    ]
    for component in components:
        if files := component_files(component):  # makes the code part of the cache key
            component.exec_properties["code"] = fingerprint(REPOSITORY, files)
    for component in (example_gen, statistics_gen, transform, evaluator):
        component.with_beam_pipeline_args(config.beam.by_component.get(component.id, ()))

    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=components,
        enable_cache=enable_cache,
        metadata_connection_config=metadata,
        beam_pipeline_args=beam_arguments(config.beam),
    )


def _check_schema(path: Path) -> None:
    """Raises an error for a schema that components would fail on later."""
    try:
        schema = text_format.Parse(path.read_text(encoding="utf-8"), schema_pb2.Schema())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        message = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"the schema {path} cannot be read ({message}); see {SCHEMA} for a valid one") from None
    features = {feature.name: feature for feature in schema.feature}
    for name in (IMAGE, LATEX, NAME):
        feature = features.get(name)
        if feature is None or feature.type != schema_pb2.BYTES or not feature.HasField("shape") or feature.shape.dim:
            raise UserError(
                f"the schema {path} does not fit the records: it needs a feature {name} with type: BYTES "
                f"and shape {{}}, as in {SCHEMA}"
            )
