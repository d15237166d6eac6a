"""What there is to learn: tasks, their splits, and how they are scored."""

from __future__ import annotations

from coldframe.tasks.duplicates import class_balance
from coldframe.tasks.leaks import check_leaks
from coldframe.tasks.load import builtin_names, load_task
from coldframe.tasks.metrics import METRICS, Metric
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.task import Example, Passage, Schema, Task, Template
from coldframe.tasks.text_metrics import TEXT_METRICS, TextMetric

__all__ = [
    "METRICS",
    "TEXT_METRICS",
    "Example",
    "Metric",
    "Passage",
    "Schema",
    "Task",
    "TaskConfig",
    "Template",
    "TextMetric",
    "builtin_names",
    "check_leaks",
    "class_balance",
    "load_task",
]
