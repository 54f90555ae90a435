"""Sets of conversations: pairs of answers of which one is preferred, and demonstrations of an agent."""

from typing import Any

from hpt_megatron.data.importers.texts import transcript

Row = dict[str, Any]


def ultrafeedback(row: Row) -> Row:
    """The last turns are the answers; their scores give a margin."""
    chosen, rejected = list(row["chosen"]), list(row["rejected"])
    told = {"score_chosen": row.get("score_chosen"), "score_rejected": row.get("score_rejected")}
    if None not in told.values():
        told["margin"] = float(row["score_chosen"]) - float(row["score_rejected"])
    pair = {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
    return {**pair, "index": row["prompt_id"], "ability": "chat", "extra_info": told}


def ultrafeedback_all(row: Row) -> Row:
    """Four answers with scores: the best one against the worst."""
    scored = sorted(row["completions"], key=lambda one: float(one["overall_score"]))
    if len(scored) < 2 or scored[0]["overall_score"] == scored[-1]["overall_score"]:
        raise ValueError("no answer is better than another")
    margin = float(scored[-1]["overall_score"]) - float(scored[0]["overall_score"])
    pair = {"chosen": str(scored[-1]["response"]), "rejected": str(scored[0]["response"])}
    told = {"margin": margin, "source": row.get("source")}
    return {**pair, "prompt": row["instruction"], "ability": "chat", "extra_info": told}


def hh_rlhf(row: Row) -> Row:
    """Two transcripts that part at the last answer, or before."""
    chosen, rejected = transcript(str(row["chosen"])), transcript(str(row["rejected"]))
    if not chosen or chosen[-1]["role"] != "assistant" or not rejected:
        raise ValueError("its transcript does not end with the assistant")
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:], "ability": "chat"}


def summarize(row: Row) -> Row:
    """A post and two summaries."""
    info, texts, choice = row["info"], [str(one["text"]).strip() for one in row["summaries"]], int(row["choice"])
    if len(texts) != 2 or choice not in (0, 1):
        raise ValueError("it has no choice of two summaries")
    title = f"Title: {info['title']}\n" if info.get("title") else ""
    source = f"Subreddit: r/{info['subreddit']}\n" if info.get("subreddit") else ""
    post = info.get("post") if info.get("post") is not None else info.get("article")
    pair = {"chosen": texts[choice], "rejected": texts[1 - choice]}
    return {**pair, "prompt": f"{source}{title}Post: {post}\n\nSummarize the post.", "ability": "summarize"}


def vrag_sft(row: Row) -> Row:
    """An agent's conversation: pages and crops come in turns of the user."""
    return {"messages": list(row["messages"]), "images": list(row.get("images") or []), "ability": "search"}
