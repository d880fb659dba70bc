"""Prompts: what users say, from files, made up to a length, or mixed.

Chat templates are the server's; a system prompt is sent only where one was given.
"""

from loadtest.prompts.prompt import BUNDLED, Prompt, PromptSet, load
from loadtest.prompts.source import PromptSource

__all__ = ["BUNDLED", "Prompt", "PromptSet", "PromptSource", "load"]
