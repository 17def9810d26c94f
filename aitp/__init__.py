"""aitp, the AI Task Processor: takes tasks from a task API, runs them through a provider, brings the results back."""

__version__ = "2.0.0"
SERVICE_NAME = "ai-task-processor"
