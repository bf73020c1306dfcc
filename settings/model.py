"""What every block of settings shares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

# The type of an error that reject() raises.
REJECTED = "rejected"


class Model(BaseModel):
    """Unknown keys are errors, no silent conversion, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def reject(*problems: str) -> None:
    """Raise an error with a line for each problem: `KEY: VALUE: what is wrong; what to do`. Of none, return.

    KEY: the path below the model whose validator calls this.
    """
    if problems:
        raise PydanticCustomError(REJECTED, "{problems}", {"problems": "\n".join(problems)})
