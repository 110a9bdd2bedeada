"""The pipeline: from TFRecords to a model that is trained, judged and pushed."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from ml_metadata.proto import metadata_store_pb2
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
from pipeline.sources import component_files, fingerprint
from trainer_module import reader
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
    """The pipeline of a configuration, the same for every orchestrator.

    Args:
        config: every knob.
        data: folder of TFRecords in train/, eval/ and test/.
        pipeline_root: folder for artifacts.
        serving: folder of versions that blessed models are pushed to.
        checkpoints: folder where a killed training finds its state again; None keeps none.
        metadata: the metadata store, for orchestrators that do not bring one.
        schema: the curated schema, a text proto.
        enable_cache: reuse what was made from the same inputs, settings and code.

    Raises:
        UserError: the schema cannot be read, or has not what a record has.
    """
    _check_schema(Path(schema))

    # Brings the records in, one split for each folder, in one spelling; stops the run at one that cannot be used.
    splits = [example_gen_pb2.Input.Split(name=split, pattern=f"{split}/*") for split in SPLITS]
    example_gen = ImportExampleGen(
        input_base=data, input_config=example_gen_pb2.Input(splits=splits), spelling=config.data.spelling
    )

    # Brings in what a record must be like, curated by hand; its cache goes by what the file says.
    schema_gen = ImportSchemaGen(schema_file=schema)
    schema_gen.exec_properties["code"] = fingerprint(Path(schema).parent, [Path(schema)])

    # Counts and measures the features; the schema keeps it from counting images by their bytes.
    statistics_gen = StatisticsGen(examples=example_gen.outputs["examples"], schema=schema_gen.outputs["schema"])

    # Stops the run when the examples do not match the schema.
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )

    # Normalises the images, learns the vocabulary and turns formulas into ids.
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
    # Examples that were found wanting must not be learned from.
    transform.add_upstream_node(example_validator)

    # Trains the model and exports it with the transformation inside.
    trainer_config = {"config": config.section("image", "vocabulary", "model", "training", "decoding")}
    if checkpoints is not None:
        trainer_config["checkpoints"] = checkpoints
    if config.training.start_from == reader.NAME:  # another reader makes another training
        trainer_config["start_from"] = reader.fingerprint()
    trainer = Trainer(
        run_fn="trainer_module.trainer.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema_gen.outputs["schema"],
        custom_config=trainer_config,
    )

    # Finds the model that is serving now.
    baseline = Baseline(model=trainer.outputs["model"], serving=serving)

    # Lets the model read unseen formulas, and blesses it if it keeps the rules of the gate.
    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["baseline"],
        gate=config.evaluation.gate,
        split=config.evaluation.split,
        robustness=config.evaluation.robustness,
        spelling=config.data.spelling,
    )

    # Lets the model answer real images in a fresh process, as a server would.
    serving_check = ServingCheck(
        model=trainer.outputs["model"],
        examples=example_gen.outputs["examples"],
        split=config.evaluation.split,
        images=config.serving.check_images,
        max_seconds=config.serving.max_seconds,
    )
    # Side by side each would slow the other, and be timed with that.
    serving_check.add_upstream_node(evaluator)

    # Puts a model that both bless into the serving folder, and deletes the oldest versions there.
    pusher = Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_check.outputs["blessing"],
        serving=serving,
        keep=config.serving.keep,
    )

    # Writes what the run came to as one page.
    reporter = Reporter(
        pipeline=config.name,
        settings=flatten(config),
        data=data,
        split=config.evaluation.split,
        serving=serving,
        examples=example_gen.outputs["examples"],
        transform_graph=transform.outputs["transform_graph"],
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        baseline=baseline.outputs["baseline"],
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        serving_check=serving_check.outputs["blessing"],
        pushed_model=pusher.outputs["pushed_model"],
    )

    components = [
        example_gen,
        schema_gen,
        statistics_gen,
        example_validator,
        transform,
        trainer,
        baseline,
        evaluator,
        serving_check,
        pusher,
        reporter,
    ]
    for component in components:
        if files := component_files(component):  # so that the cache follows the code
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
    """Refuses a schema that the components would fail on, before any of them runs."""
    try:
        schema = text_format.Parse(path.read_text(encoding="utf-8"), schema_pb2.Schema())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        message = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"the schema {path} cannot be read ({message}); {SCHEMA} is one that can") from None
    features = {feature.name: feature for feature in schema.feature}
    for name in (IMAGE, LATEX, NAME):
        feature = features.get(name)
        if feature is None or feature.type != schema_pb2.BYTES or not feature.HasField("shape") or feature.shape.dim:
            raise UserError(
                f"the schema {path} disagrees with the records: the feature {name} has to be there with type: BYTES "
                f"and shape {{}}, as in {SCHEMA}"
            )
