"""The agent backends that come with the gateway."""

from gateway.agents.acp import AcpFactory
from gateway.agents.demo import DemoFactory
from gateway.agents.llm import LlmFactory

demo = DemoFactory()
acp = AcpFactory()
llm = LlmFactory()
