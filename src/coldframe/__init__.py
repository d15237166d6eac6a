"""Adapt a frozen language model with what you retrieve, and measure whether the retrieval did it.

The public names are looked up when they are first used: importing coldframe imports no torch and changes
nothing global.

Example:
    >>> import coldframe as cf
    >>> "MHAESP" in dir(cf)
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coldframe import errors as errors
    from coldframe.diagnosis.diagnose import diagnose as diagnose
    from coldframe.diagnosis.rag import diagnose_log as diagnose_log
    from coldframe.evaluation.comparison import compare as compare
    from coldframe.frozen.model import load_lm as load_lm
    from coldframe.methods.compose import Compose as Compose
    from coldframe.methods.head_gains.pear import PEAR as PEAR
    from coldframe.methods.head_gains.pear import PEARConfig as PEARConfig
    from coldframe.methods.positions.attention_buckets import AttentionBuckets as AttentionBuckets
    from coldframe.methods.positions.attention_buckets import AttentionBucketsConfig as AttentionBucketsConfig
    from coldframe.methods.positions.moice import MoICE as MoICE
    from coldframe.methods.positions.moice import MoICEConfig as MoICEConfig
    from coldframe.methods.positions.ms_poe import MsPoE as MsPoE
    from coldframe.methods.positions.ms_poe import MsPoEConfig as MsPoEConfig
    from coldframe.methods.soft_tokens.black_box_tuning import BlackBoxTuning as BlackBoxTuning
    from coldframe.methods.soft_tokens.black_box_tuning import BlackBoxTuningConfig as BlackBoxTuningConfig
    from coldframe.methods.soft_tokens.idpg import IDPG as IDPG
    from coldframe.methods.soft_tokens.idpg import IDPGConfig as IDPGConfig
    from coldframe.methods.soft_tokens.latent_memory import LatentMemory as LatentMemory
    from coldframe.methods.soft_tokens.latent_memory import LatentMemoryConfig as LatentMemoryConfig
    from coldframe.methods.soft_tokens.mha_esp import MHAESP as MHAESP
    from coldframe.methods.soft_tokens.mha_esp import MHAESPConfig as MHAESPConfig
    from coldframe.methods.soft_tokens.p_esp import PESP as PESP
    from coldframe.methods.soft_tokens.prompt_tuning import PromptTuning as PromptTuning
    from coldframe.methods.soft_tokens.prompt_tuning import PromptTuningConfig as PromptTuningConfig
    from coldframe.methods.soft_tokens.reparameterised_prompt import ReparameterisedPrompt as ReparameterisedPrompt
    from coldframe.methods.soft_tokens.reparameterised_prompt import (
        ReparameterisedPromptConfig as ReparameterisedPromptConfig,
    )
    from coldframe.methods.soft_tokens.u_esp import UESP as UESP
    from coldframe.methods.soft_tokens.u_esp import ESPConfig as ESPConfig
    from coldframe.methods.text.icl import FixedICL as FixedICL
    from coldframe.methods.text.icl import ICLConfig as ICLConfig
    from coldframe.methods.text.icl import RetrievedICL as RetrievedICL
    from coldframe.methods.text.zero_shot import ZeroShot as ZeroShot
    from coldframe.methods.text.zero_shot import ZeroShotConfig as ZeroShotConfig
    from coldframe.methods.weight_deltas.dyprag import DyPRAG as DyPRAG
    from coldframe.methods.weight_deltas.dyprag import DyPRAGConfig as DyPRAGConfig
    from coldframe.methods.weight_deltas.lora import LoRA as LoRA
    from coldframe.methods.weight_deltas.lora import LoRAConfig as LoRAConfig
    from coldframe.methods.weight_deltas.poly_prag import PolyPRAG as PolyPRAG
    from coldframe.methods.weight_deltas.poly_prag import PolyPRAGConfig as PolyPRAGConfig
    from coldframe.methods.weight_deltas.prag import PRAG as PRAG
    from coldframe.methods.weight_deltas.prag import PRAGConfig as PRAGConfig
    from coldframe.methods.without_model.encoder_head import EncoderHead as EncoderHead
    from coldframe.methods.without_model.encoder_head import EncoderHeadConfig as EncoderHeadConfig
    from coldframe.methods.without_model.gradient_boosting import GradientBoosting as GradientBoosting
    from coldframe.methods.without_model.gradient_boosting import GradientBoostingConfig as GradientBoostingConfig
    from coldframe.methods.without_model.knn import KNN as KNN
    from coldframe.methods.without_model.knn import KNNConfig as KNNConfig
    from coldframe.methods.without_model.logistic_regression import LogisticRegression as LogisticRegression
    from coldframe.methods.without_model.logistic_regression import LogisticRegressionConfig as LogisticRegressionConfig
    from coldframe.methods.without_model.mha_esp_head import MHAESPHead as MHAESPHead
    from coldframe.methods.without_model.random_forest import RandomForest as RandomForest
    from coldframe.methods.without_model.random_forest import RandomForestConfig as RandomForestConfig
    from coldframe.methods.without_model.setfit import SetFit as SetFit
    from coldframe.methods.without_model.setfit import SetFitConfig as SetFitConfig
    from coldframe.pipeline.estimator import ColdframeClassifier as ColdframeClassifier
    from coldframe.pipeline.fit import fit as fit
    from coldframe.pipeline.fit import grow as grow
    from coldframe.pipeline.pipeline import Pipeline as Pipeline
    from coldframe.pipeline.pipeline import load as load
    from coldframe.pipeline.reweight import reweight as reweight
    from coldframe.retrieval.retriever import RetrievalConfig as RetrievalConfig
    from coldframe.serving.remote import RemoteLM as RemoteLM
    from coldframe.tasks import load_task as load_task
    from coldframe.tasks.options import TaskConfig as TaskConfig
    from coldframe.training.config import TrainingConfig as TrainingConfig

__version__ = "0.1.0"

_HOMES = {
    "AttentionBuckets": "coldframe.methods.positions.attention_buckets",
    "AttentionBucketsConfig": "coldframe.methods.positions.attention_buckets",
    "BlackBoxTuning": "coldframe.methods.soft_tokens.black_box_tuning",
    "BlackBoxTuningConfig": "coldframe.methods.soft_tokens.black_box_tuning",
    "ColdframeClassifier": "coldframe.pipeline.estimator",
    "Compose": "coldframe.methods.compose",
    "DyPRAG": "coldframe.methods.weight_deltas.dyprag",
    "DyPRAGConfig": "coldframe.methods.weight_deltas.dyprag",
    "ESPConfig": "coldframe.methods.soft_tokens.u_esp",
    "EncoderHead": "coldframe.methods.without_model.encoder_head",
    "EncoderHeadConfig": "coldframe.methods.without_model.encoder_head",
    "FixedICL": "coldframe.methods.text.icl",
    "GradientBoosting": "coldframe.methods.without_model.gradient_boosting",
    "GradientBoostingConfig": "coldframe.methods.without_model.gradient_boosting",
    "ICLConfig": "coldframe.methods.text.icl",
    "IDPG": "coldframe.methods.soft_tokens.idpg",
    "IDPGConfig": "coldframe.methods.soft_tokens.idpg",
    "KNN": "coldframe.methods.without_model.knn",
    "KNNConfig": "coldframe.methods.without_model.knn",
    "LatentMemory": "coldframe.methods.soft_tokens.latent_memory",
    "LatentMemoryConfig": "coldframe.methods.soft_tokens.latent_memory",
    "LoRA": "coldframe.methods.weight_deltas.lora",
    "LoRAConfig": "coldframe.methods.weight_deltas.lora",
    "LogisticRegression": "coldframe.methods.without_model.logistic_regression",
    "LogisticRegressionConfig": "coldframe.methods.without_model.logistic_regression",
    "MHAESP": "coldframe.methods.soft_tokens.mha_esp",
    "MHAESPConfig": "coldframe.methods.soft_tokens.mha_esp",
    "MHAESPHead": "coldframe.methods.without_model.mha_esp_head",
    "MoICE": "coldframe.methods.positions.moice",
    "MoICEConfig": "coldframe.methods.positions.moice",
    "MsPoE": "coldframe.methods.positions.ms_poe",
    "MsPoEConfig": "coldframe.methods.positions.ms_poe",
    "PEAR": "coldframe.methods.head_gains.pear",
    "PEARConfig": "coldframe.methods.head_gains.pear",
    "PESP": "coldframe.methods.soft_tokens.p_esp",
    "PRAG": "coldframe.methods.weight_deltas.prag",
    "PRAGConfig": "coldframe.methods.weight_deltas.prag",
    "Pipeline": "coldframe.pipeline.pipeline",
    "PolyPRAG": "coldframe.methods.weight_deltas.poly_prag",
    "PolyPRAGConfig": "coldframe.methods.weight_deltas.poly_prag",
    "PromptTuning": "coldframe.methods.soft_tokens.prompt_tuning",
    "PromptTuningConfig": "coldframe.methods.soft_tokens.prompt_tuning",
    "RandomForest": "coldframe.methods.without_model.random_forest",
    "RandomForestConfig": "coldframe.methods.without_model.random_forest",
    "RemoteLM": "coldframe.serving.remote",
    "ReparameterisedPrompt": "coldframe.methods.soft_tokens.reparameterised_prompt",
    "ReparameterisedPromptConfig": "coldframe.methods.soft_tokens.reparameterised_prompt",
    "RetrievalConfig": "coldframe.retrieval.retriever",
    "RetrievedICL": "coldframe.methods.text.icl",
    "SetFit": "coldframe.methods.without_model.setfit",
    "SetFitConfig": "coldframe.methods.without_model.setfit",
    "TaskConfig": "coldframe.tasks.options",
    "TrainingConfig": "coldframe.training.config",
    "UESP": "coldframe.methods.soft_tokens.u_esp",
    "ZeroShot": "coldframe.methods.text.zero_shot",
    "ZeroShotConfig": "coldframe.methods.text.zero_shot",
    "compare": "coldframe.evaluation.comparison",
    "diagnose": "coldframe.diagnosis.diagnose",
    "diagnose_log": "coldframe.diagnosis.rag",
    "fit": "coldframe.pipeline.fit",
    "grow": "coldframe.pipeline.fit",
    "load": "coldframe.pipeline.pipeline",
    "load_lm": "coldframe.frozen.model",
    "load_task": "coldframe.tasks",
    "reweight": "coldframe.pipeline.reweight",
}

__all__ = [*_HOMES, "__version__", "errors"]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("coldframe.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'coldframe' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
