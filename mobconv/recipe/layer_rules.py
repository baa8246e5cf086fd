"""Layer rules: another width, or float, for the layers whose names a glob matches."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from pydantic import ConfigDict, Field, model_validator

from mobconv.errors import UsageError, did_you_mean
from mobconv.recipe.strict import StrictModel
from mobconv.schemes import BITS, Scheme


class LayerRule(StrictModel):
    """Another width, or float, in place of the cell's scheme, for the layers that it matches."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["bits"], "properties": {"bits": {"type": "integer"}}},
                {"required": ["keep"], "properties": {"keep": {"type": "string"}}},
            ]
        }
    )

    match: str = Field(description="glob over parameter names, such as features.0.*")
    bits: int | None = Field(
        default=None,
        description="another width, 1 to 8, in the cell's own mode",
        json_schema_extra={"minimum": BITS[0], "maximum": BITS[-1]},
    )
    keep: str | None = Field(
        default=None,
        description="`fp32` or `fp16`: these layers stay float",
        json_schema_extra={"enum": ["fp32", "fp16", None]},
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> LayerRule:
        if (self.bits is None) == (self.keep is None):
            raise ValueError("a rule has either `bits` or `keep`")
        if self.bits is not None and self.bits not in BITS:
            raise ValueError(f"bits {self.bits}: widths are 1 to 8")
        if self.keep not in (None, "fp32", "fp16"):
            raise ValueError(f"keep {self.keep!r}: layers stay fp32 or fp16")
        return self

    def matches(self, name: str) -> bool:
        """Whether the rule is for the parameter of this name."""
        return fnmatch.fnmatchcase(name, self.match)

    def apply(self, scheme: Scheme) -> Scheme:
        """Return the scheme of a layer that this rule matches, in a cell of `scheme`."""
        if scheme.mode is None:
            return scheme
        if self.keep is not None:
            return Scheme.parse(self.keep)
        assert self.bits is not None
        return Scheme(self.bits, scheme.mode, scheme.granularity, scheme.algorithm)


def scheme_for(rules: Sequence[LayerRule], name: str, scheme: Scheme) -> Scheme:
    """Return the scheme of one layer of a cell, by the last rule that matches it."""
    matching = [rule for rule in rules if rule.matches(name)]
    return matching[-1].apply(scheme) if matching else scheme


def check(rules: Sequence[LayerRule], names: Sequence[str], schemes: Iterable[Scheme]) -> None:
    """Raise UsageError for a rule that matches no layer, and for a scheme that the rules replace in every layer.

    names: of the network's weights.
    """
    for rule in rules:
        if not any(rule.matches(name) for name in names):
            near = did_you_mean(rule.match, names)
            raise UsageError(
                f"layers: match {rule.match!r} fits none of the network's {len(names)} weights{near}\n"
                + "\n".join(f"  {name}" for name in names)
            )
    for scheme in dict.fromkeys(schemes):
        if rules and names and all(scheme_for(rules, name, scheme) != scheme for name in names):
            raise UsageError(
                f"layers: the rules replace {scheme.name} in all of the network's {len(names)} weights, so no file "
                "would be what its name says; take the scheme out of `schemes`, or let the rules match less"
            )
