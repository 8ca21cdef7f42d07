"""An agent on LangGraph."""

from calculator import calculate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


def run(question, *, base_url, api_key, model, task):
    tools = [tool(calculate)]
    chat = ChatOpenAI(model=model, base_url=base_url, api_key=api_key).bind_tools(tools)
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [chat.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    messages = graph.compile().invoke({"messages": [("user", question)]})["messages"]
    return messages[-1].content
