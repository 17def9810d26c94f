"""What can be done with a task: `PROCESSORS` maps each known task type to its processor.

A task type is one module here: its content, what is asked of the provider, and the shape of its result. Relays use
`parse` to judge documents, workers use `load` and `run`. A type that is not in the table is left to later releases.
"""

from aitp.processors import (  # each registers itself
    defining_impact_area,
    defining_severity,
    defining_topics,
    identifying_data,
    text_embedding,
)
from aitp.processors.base import PROCESSORS, Content, Context, Processor, Result, processor

__all__ = ["PROCESSORS", "Content", "Context", "Processor", "Result", "processor"]

del defining_impact_area, defining_severity, defining_topics, identifying_data, text_embedding
