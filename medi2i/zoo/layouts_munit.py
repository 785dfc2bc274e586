"""How the authors' code names the layers of UNIT, MUNIT and DRIT.

UNIT: mingyuliutw/UNIT, its master branch; MUNIT: NVlabs/MUNIT; both write gen_*.pt with the
networks of their domains "a" and "b". DRIT: HsinYingLee/DRIT, whose files hold all networks and
optimisers. Their first domain becomes the source, their second the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from medi2i.errors import ModelError
from medi2i.zoo.layouts import Layout, Origin, State

__all__ = ["TWO_DOMAINS"]

NOTE = "reflected edges (pad_type reflect) and ReLU, the authors' defaults, are taken for granted"
LEAVES = {"weight": "gamma", "bias": "beta"}
"""Of the authors' layer norm in UNIT and MUNIT."""


def _unit(state: State, expected: int) -> Layout:
    del expected
    features, inputs, *_ = state.shape("a.enc.model.0.conv.weight")
    halvings, blocks = _depth(state, "a.enc")
    if halvings != 2:
        raise ModelError(
            f'checkpoint "{state.path}" halves the image {halvings} times (n_downsample); UNIT '
            "with 2, the authors' number, is supported"
        )
    table = _encoder("encoder", "enc", halvings, blocks)
    for block in range(blocks):
        for ours, theirs in ((0, 0), (3, 1)):
            place = f"dec.model.0.model.{block}.model.{theirs}.conv"
            table[f"decoder.{block}.change.{ours}"] = place
    table |= _rise(f"decoder.{blocks}", halvings)
    outputs = state.shape(f"b.dec.model.{2 * halvings + 1}.conv.weight")[0]
    arguments = {"features": features, "blocks": blocks}
    return Layout(arguments, inputs, outputs, _by_domain(table), note=NOTE)


def _munit(state: State, expected: int) -> Layout:
    del expected
    features, inputs, *_ = state.shape("a.enc_content.model.0.conv.weight")
    halvings, blocks = _depth(state, "a.enc_content")
    hidden, code = state.shape("a.mlp.model.0.fc.weight")
    if state.matching(r"a\.mlp\.model\.3\..*") or "a.enc_style.model.6.weight" not in state:
        raise ModelError(
            f'checkpoint "{state.path}" has a perceptron or a style encoder of other depth than '
            "the authors' (3 and 4 halvings), which are supported"
        )
    table = _encoder("content_encoder", "enc_content", halvings, blocks)
    table |= {f"style_encoder.{2 * i}": f"enc_style.model.{i}.conv" for i in range(5)}
    table |= {"style_encoder.11": "enc_style.model.6"}
    table |= {f"perceptron.{2 * i}": f"mlp.model.{i}.fc" for i in range(3)}
    for block in range(blocks):
        for place, name in enumerate(("first", "second")):
            theirs = f"dec.model.0.model.{block}.model.{place}.conv"
            table[f"blocks.{block}.{name}"] = theirs
    table |= _rise("rise", halvings)
    return Layout(
        {
            "features": features,
            "halvings": halvings,
            "blocks": blocks,
            "code": code,
            "hidden": hidden,
        },
        inputs,
        state.shape(f"b.dec.model.{2 * halvings + 1}.conv.weight")[0],
        _by_domain(table),
        note=NOTE + "; translates with the style of zeros",
    )


def _depth(state: State, encoder: str) -> tuple[int, int]:
    """Halvings and residual blocks."""
    halvings = len(state.matching(rf"{encoder}\.model\.\d+\.conv\.weight")) - 1
    blocks = rf"{encoder}\.model\.{halvings + 1}\.model\.\d+\.model\.0\.conv\.weight"
    return halvings, len(state.matching(blocks))


def _encoder(ours: str, theirs: str, halvings: int, blocks: int) -> dict[str, str]:
    table = {f"{ours}.{3 * i}": f"{theirs}.model.{i}.conv" for i in range(halvings + 1)}
    first = 3 * (halvings + 1)
    for block in range(blocks):
        for place, convolution in enumerate((0, 3)):
            table[f"{ours}.{first + block}.change.{convolution}"] = (
                f"{theirs}.model.{halvings + 1}.model.{block}.model.{place}.conv"
            )
    return table


def _rise(ours: str, halvings: int) -> dict[str, str]:
    table = {f"{ours}.{4 * halvings}": f"dec.model.{2 * halvings + 1}.conv"}
    for i in range(halvings):
        table[f"{ours}.{4 * i + 1}"] = f"dec.model.{2 * i + 2}.conv"
        table[f"{ours}.{4 * i + 2}"] = f"dec.model.{2 * i + 2}.norm"
    return table


def _by_domain(table: Mapping[str, str]) -> Callable[[str], str]:
    """From "generator_a.module.leaf" to "a.module.leaf"."""

    def theirs(key: str) -> str:
        network, _, rest = key.partition(".")
        module, _, leaf = rest.rpartition(".")
        place = table[module]
        leaf = LEAVES[leaf] if place.endswith(".norm") else leaf
        return f"{network[-1]}.{place}.{leaf}"

    return theirs


def _drit(state: State, expected: int) -> Layout:
    del expected
    features, inputs, *_ = state.shape("enc_c.convA.0.model.1.weight")
    concat = "gen.dec_share.0.model.1.weight" in state
    blocks = len(state.matching(r"enc_c\.convA\.\d+\.model\.5\.weight"))
    if concat:
        code, outputs = (
            state.shape("enc_a.fc_B.0.weight")[0],
            state.shape("gen.decB4.0.weight")[1],
        )
    else:
        code, outputs = state.shape("gen.mlpB.0.weight")[1], state.shape("gen.decB5.2.weight")[1]
    for key, tensor in state.items():
        if tensor.dim() == 3:  # their layer norms' scales have two axes of 1, ours none
            state[key] = tensor.flatten()
    residual = {"change.0": "model.1", "change.3": "model.5"}
    table = {f"content_shared.{o}": f"enc_c.conv_share.0.{t}" for o, t in residual.items()}
    table |= {f"decoder_shared.{o}": f"gen.dec_share.0.{t}" for o, t in residual.items()}
    for domain in "ab":
        named, place = domain.upper(), f"content.{domain}"
        for i, layer in enumerate((0, 2, 5)):
            table[f"{place}.{layer}"] = f"enc_c.conv{named}.{i}.model.1"
        for block in range(blocks):
            for ours, theirs in residual.items():
                table[f"{place}.{8 + block}.{ours}"] = f"enc_c.conv{named}.{3 + block}.{theirs}"
        table |= _joining(domain, blocks, residual) if concat else _mixing(domain)
    return Layout(
        {
            "features": features,
            "code": code,
            "blocks": blocks,
            "attribute": "concat" if concat else "transform",
        },
        inputs,
        outputs,
        lambda key: f"{table[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}",
        note="translates with the attribute zero",
    )


def _joining(domain: str, blocks: int, residual: Mapping[str, str]) -> dict[str, str]:
    """Attribute encoder and decoder of --concat 1."""
    named = domain.upper()
    encoder, decoder = f"attribute.{domain}", f"decoder.{domain}"
    table = {
        f"{encoder}.stem": f"enc_a.conv_{named}.1",
        f"{encoder}.mean": f"enc_a.fc_{named}.0",
        f"{encoder}.log_variance": f"enc_a.fcVar_{named}.0",
        f"{decoder}.head": f"gen.dec{named}4.0",
    }
    for block in range(3):
        for ours, theirs in (("conv.2", "conv.2"), ("conv.5", "conv.4.1"), ("shortcut.1",) * 2):
            table[f"{encoder}.blocks.{block}.{ours}"] = f"enc_a.conv_{named}.{2 + block}.{theirs}"
    for block in range(blocks):
        for ours, theirs in residual.items():
            table[f"{decoder}.blocks.{block}.{ours}"] = f"gen.dec{named}1.{block}.{theirs}"
    for up in range(2):
        for layer in range(2):
            table[f"{decoder}.ups.{up}.{layer}"] = f"gen.dec{named}{2 + up}.0.model.{layer}"
    return table


def _mixing(domain: str) -> dict[str, str]:
    """Attribute encoder and decoder of --concat 0."""
    named = domain.upper()
    encoder, decoder = f"attribute.{domain}", f"decoder.{domain}"
    table = {f"{encoder}.{2 * i}": f"enc_a.model_{domain}.{1 + 3 * i}" for i in range(5)}
    table |= {f"{encoder}.11": f"enc_a.model_{domain}.16"}
    table |= {f"{decoder}.perceptron.{i}": f"gen.mlp{named}.{i}" for i in (0, 2, 4)}
    for block in range(4):
        ours, theirs = f"{decoder}.blocks.{block}", f"gen.dec{named}{block + 1}"
        for part in (1, 2):
            table[f"{ours}.conv{part}"] = f"{theirs}.conv{part}.0.1"
            for layer in (0, 2):
                table[f"{ours}.mix{part}.{layer}"] = f"{theirs}.blk{part}.{layer}"
    for up in range(2):
        for layer in range(2):
            table[f"{decoder}.rise.{up}.{layer}"] = f"gen.dec{named}5.{up}.model.{layer}"
    table[f"{decoder}.rise.2"] = f"gen.dec{named}5.2"
    return table


BY_DOMAIN = {"generator_a": "a", "generator_b": "b"}
DRIT_NETWORKS = {
    "content": "enc_c",
    "content_shared": "enc_c",
    "attribute": "enc_a",
    "decoder": "gen",
    "decoder_shared": "gen",
}
TWO_DOMAINS: Mapping[str, Origin] = {
    "UNIT": Origin("unit", _unit, BY_DOMAIN, together=True),
    "MUNIT": Origin("munit", _munit, BY_DOMAIN, together=True),
    "DRIT": Origin("drit", _drit, DRIT_NETWORKS, together=True),
}
"""By the names of the repositories."""
