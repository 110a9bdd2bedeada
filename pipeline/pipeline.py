"""The pipeline: from TFRecords to a model that is trained, judged and pushed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import text_format
from ml_metadata.proto import metadata_store_pb2
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.components.statistics_gen.component import StatisticsGen
from tfx.components.trainer.component import Trainer
from tfx.components.transform.component import Transform
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import example_gen_pb2, transform_pb2

from components.baseline.component import Baseline
from components.evaluator.component import Evaluator
from components.example_gen.component import ImportExampleGen
from components.example_validator.component import ExampleValidator
from components.pusher.component import Pusher
from components.report.component import Reporter
from components.serving_check.component import ServingCheck
from data.errors import UserError
from data.records import SPLITS
from pipeline.beam import beam_arguments
from pipeline.config import Config, flatten
from trainer_module.features import IMAGE, LATEX, NAME

REPOSITORY = Path(__file__).resolve().parents[1]
# What the code of a component is written in.
SOURCES = {".py", ".html", ".css", ".js"}
# What training images and evaluated pictures are changed with.
DEGRADATIONS = ("data/degradation.py", "data/geometry.py")
SPELLING = ("data/spelling", "data/latex_tables.py", "data/tokenizer.py")
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
    example_gen = _keyed(
        ImportExampleGen(
            input_base=data, input_config=example_gen_pb2.Input(splits=splits), spelling=config.data.spelling
        ),
        _sources("components/example_gen", "data/records.py", *SPELLING),
    )

    # Brings in what a record must be like, curated by hand.
    schema_gen = _keyed(ImportSchemaGen(schema_file=schema), [Path(schema)])

    # Counts and measures the features; the schema keeps it from counting images by their bytes.
    statistics_gen = StatisticsGen(examples=example_gen.outputs["examples"], schema=schema_gen.outputs["schema"])

    # Stops the run when the examples are not as the schema says.
    example_validator = _keyed(
        ExampleValidator(statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]),
        _sources("components/example_validator"),
    )

    # Normalises the images, learns the vocabulary and turns formulas into ids.
    transform = _keyed(
        Transform(
            examples=example_gen.outputs["examples"],
            schema=schema_gen.outputs["schema"],
            preprocessing_fn="trainer_module.preprocessing.preprocessing_fn",
            splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
            force_tf_compat_v1=False,
            disable_statistics=True,
            disable_analyzer_cache=True,
            custom_config={"config": config.section("image", "vocabulary")},
        ),
        _sources("trainer_module/preprocessing.py", "trainer_module/features.py"),
    )
    # Examples that were found wanting must not be learned from.
    transform.add_upstream_node(example_validator)

    # Trains the model and exports it with the transformation inside.
    trainer_config = {"config": config.section("image", "vocabulary", "model", "training")}
    if checkpoints is not None:
        trainer_config["checkpoints"] = checkpoints
    trainer = _keyed(
        Trainer(
            run_fn="trainer_module.trainer.run_fn",
            examples=transform.outputs["transformed_examples"],
            transform_graph=transform.outputs["transform_graph"],
            schema=schema_gen.outputs["schema"],
            custom_config=trainer_config,
        ),
        [path for path in _sources("trainer_module", *DEGRADATIONS) if path.name != "commands.py"],
    )

    # Finds the model that is serving now.
    baseline = _keyed(Baseline(model=trainer.outputs["model"], serving=serving), _sources("components/baseline"))

    # Lets the model read unseen formulas, and blesses it if it keeps the rules of the gate.
    evaluator = _keyed(
        Evaluator(
            examples=example_gen.outputs["examples"],
            model=trainer.outputs["model"],
            baseline_model=baseline.outputs["baseline"],
            gate=config.evaluation.gate,
            split=config.evaluation.split,
            robustness=config.evaluation.robustness,
            spelling=config.data.spelling,
        ),
        _sources(
            "components/evaluator",
            "components/formula_metrics",
            "data/latex.py",
            "data/rendering.py",
            *DEGRADATIONS,
            *SPELLING,
        ),
    )

    # Lets the model answer real images in a fresh process, as a server would.
    serving_check = _keyed(
        ServingCheck(
            model=trainer.outputs["model"],
            examples=example_gen.outputs["examples"],
            split=config.evaluation.split,
            images=config.serving.check_images,
            max_seconds=config.serving.max_seconds,
        ),
        _sources("components/serving_check"),
    )
    # Side by side each would slow the other, and be timed with that.
    serving_check.add_upstream_node(evaluator)

    # Puts a model that both bless into the serving folder, and deletes the oldest versions there.
    pusher = _keyed(
        Pusher(
            model=trainer.outputs["model"],
            model_blessing=evaluator.outputs["blessing"],
            infra_blessing=serving_check.outputs["blessing"],
            serving=serving,
            keep=config.serving.keep,
        ),
        _sources("components/pusher", "components/baseline/serving.py"),
    )

    # Writes what the run came to as one page.
    reporter = _keyed(
        Reporter(
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
        ),
        _sources("components/report", "data/latex.py", "data/rendering.py"),
    )

    for component in (example_gen, statistics_gen, transform, evaluator):
        component.with_beam_pipeline_args(config.beam.by_component.get(component.id, ()))

    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=[
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
        ],
        enable_cache=enable_cache,
        metadata_connection_config=metadata,
        beam_pipeline_args=beam_arguments(config.beam),
    )


def _check_schema(path: Path) -> None:
    """Refuses a schema that the components would fail on, before any of them runs."""
    try:
        schema = text_format.Parse(path.read_text(encoding="utf-8"), schema_pb2.Schema())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"the schema {path} cannot be read ({told}); {SCHEMA} is one that can") from None
    features = {feature.name: feature for feature in schema.feature}
    for name in (IMAGE, LATEX, NAME):
        feature = features.get(name)
        if feature is None or feature.type != schema_pb2.BYTES or not feature.HasField("shape") or feature.shape.dim:
            raise UserError(
                f"the schema {path} disagrees with the records: the feature {name} has to be there with type: BYTES "
                f"and shape {{}}, as in {SCHEMA}"
            )


def _keyed(component: BaseComponent, sources: Iterable[Path]) -> BaseComponent:
    """The component with the SHA-256 of the files it runs among its properties, so that the cache follows the code."""
    sha = hashlib.sha256()
    for path in sources:
        sha.update(path.read_bytes())
    component.exec_properties["code"] = sha.hexdigest()
    return component


def _sources(*places: str) -> list[Path]:
    """The files of packages, pages and scripts among them, and modules, given relative to the repository."""
    found: list[Path] = []
    for place in places:
        path = REPOSITORY / place
        found += sorted(file for file in path.rglob("*.*") if file.suffix in SOURCES) if path.is_dir() else [path]
    return found
