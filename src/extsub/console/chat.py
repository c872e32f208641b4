"""``extsub chat``: questions in, answers out as they come. Answers alone go to standard output, all else to standard
error, so that a script can have them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence

from extsub.chat.commands import QUIT, carry_out
from extsub.chat.conversation import Conversation, Said
from extsub.chat.session import Session
from extsub.console.questions import in_terminal, piped, typed
from extsub.console.side_by_side import side_by_side
from extsub.errors import ExtSubError, counted
from extsub.models.prompts import Message
from extsub.printing import print_json, say, shows_progress, write


def chat(session: Session, as_json: bool = False) -> None:
    """Answer until the input ends.

    Args:
        session: who answers.
        as_json: print every answer, when it is whole, as a JSON object on a line of its own.

    Raises:
        ExtSubError: some lines of a pipe could not be carried out; in a terminal that is only said.
    """
    conversation, watched = Conversation(session), in_terminal()
    _begin(conversation, watched)
    failed = 0
    for line in typed(lambda: f"{conversation.name()} > ") if watched else piped():
        if line.strip() in QUIT:
            break
        try:
            _do(conversation, line, watched, as_json)
        except ExtSubError as error:
            say(" ".join(str(error).split()), error=True)
            failed += 1
        except KeyboardInterrupt:
            if not watched:
                raise
            say("", "stopped", error=True)
    if failed and not watched:
        raise ExtSubError(f"{counted(failed, 'line')} of the input could not be carried out, as said above")


def answer(session: Session, question: str, as_json: bool = False) -> None:
    """Answer one question.

    Args:
        session: who answers.
        question: what is asked.
        as_json: print a JSON object when the answer is whole.

    Raises:
        ExtSubError: as `Session.stream`.
    """
    if not as_json:
        note(*session.notes)
    with contextlib.closing(session.stream(question)) as reply:
        said = Said(session.position, shortened=reply.shortened)
        said.text = "".join(reply) if as_json else _written(reply)
        said.finished = reply.finished
    notes = notes_on(said, session.max_new_tokens)
    if as_json:
        record = {"base": session.base, "adapters": session.adapters, "prompt": session.prompt, "question": question}
        outcome = {"answer": said.text, "finished": said.finished, "notes": [*session.notes, *notes]}
        print_json({**record, **outcome})
    else:
        note(*notes)


def _written(pieces: Iterable[str]) -> str:
    """Write an answer as it comes, and end the line whatever happens."""
    text = ""
    try:
        for piece in pieces:
            text += piece
            write(piece)
    finally:
        write("\n")
    return text


def note(*sentences: str) -> None:
    """Print what a user should know on standard error; nothing where --quiet was given."""
    if sentences and shows_progress():
        say(*(f"  note: {sentence}" for sentence in sentences), error=True)


def notes_on(said: Said, max_new_tokens: int, name: str = "the answer") -> list[str]:
    """What a user should know of an answer, in sentences."""
    notes = [] if said.finished else [f"{name} reached --max-new-tokens {max_new_tokens} and stopped there"]
    return [*notes, "the question lost its beginning: too long for the model"] if said.shortened else notes


def _begin(conversation: Conversation, watched: bool) -> None:
    session = conversation.session
    if watched and shows_progress():
        adapters = f" with {' and '.join(session.adapters)}" if session.adapters else ""
        say(f"{session.base}{adapters}, asked with --prompt {session.prompt}", error=True)
        say("/help lists what can be typed; Ctrl-D ends", error=True)
    note(*session.notes)
    if not session.has_turns:
        note(f"--prompt {session.prompt} asks one question at a time: what was said before is not seen")


def _do(conversation: Conversation, line: str, watched: bool, as_json: bool) -> None:
    """What a line wants: a command, or an answer."""
    if line.startswith("/"):
        said = carry_out(conversation, line)
        if said and (watched or shows_progress()):
            say(*said.split("\n"), error=True)
        return
    if not (question := line.strip()):
        return
    messages, dropped = conversation.messages(question)
    if dropped:
        note(f"the context is full: the oldest {counted(dropped, 'message')} are forgotten")
    if as_json:
        answers = _as_json(conversation, messages)
    elif watched and len(conversation.positions) > 1:
        answers = _beside(conversation, messages)
    else:
        answers = _plain(conversation, messages)
    if watched:
        write("\n")
    for said in answers:
        name = f"{conversation.name(said.position)}'s answer" if len(answers) > 1 else "the answer"
        note(*notes_on(said, conversation.session.max_new_tokens, name))


def _plain(conversation: Conversation, messages: Sequence[Message]) -> list[Said]:
    """One after the other, as they come; with their names where there are several."""
    answers: list[Said] = []
    has_names = len(conversation.positions) > 1
    with contextlib.closing(conversation.answers(messages)) as pieces:
        for said, piece in pieces:
            if said not in answers:
                answers.append(said)
                if has_names:
                    write(f"{conversation.name(said.position)}: ")
            write(piece or "\n")
    return answers


def _beside(conversation: Conversation, messages: Sequence[Message]) -> list[Said]:
    """Two at once, for a terminal."""
    answers = {position: Said(position) for position in conversation.positions}
    with side_by_side() as show, contextlib.closing(conversation.answers(messages)) as pieces:
        for said, _ in pieces:
            answers[said.position] = said
            show([(conversation.name(position), answer.text) for position, answer in answers.items()])
    return list(answers.values())


def _as_json(conversation: Conversation, messages: Sequence[Message]) -> list[Said]:
    answers = [said for said, piece in conversation.answers(messages) if not piece]
    for said in answers:
        record = {**said.position.to_dict(), "question": messages[-1].content, "answer": said.text}
        write(json.dumps({**record, "finished": said.finished}) + "\n")
    return answers
