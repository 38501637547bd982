"""The look at machine code refuses what it should."""

from __future__ import annotations

from collections import Counter

from tests.cuda.sass import EXPECTED, FUNCTION, HOPPER, INSTRUCTION, complaints

SOUND = {(80, " ".join(names)): Counter(dict.fromkeys(needed, 4)) for names, needed in EXPECTED.items()}


def test_lines_of_the_disassembly_are_read() -> None:
    assert FUNCTION.search("\t\tFunction : _ZN7quernel4tile")[1] == "_ZN7quernel4tile"
    for line, name in [
        ("        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;   /* 0x000 */", "HMMA"),
        ("        /*1ab0*/              @!P0 STL [R1], R2 ;                          /* 0x000 */", "STL"),
        ("        /*0020*/              @UP1 UIADD3 UR4, UR4, 0x1, URZ ;             /* 0x000 */", "UIADD3"),
    ]:
        assert INSTRUCTION.match(line)[1] == name


def test_what_is_refused() -> None:
    assert complaints(SOUND) == []
    assert complaints({**SOUND, (80, "for_each"): Counter(LDL=9, STL=7)}) == []
    for kernel, count, message in [
        (
            "multiply_words HalfGemm Bf16",
            Counter(FFMA=64, LDSM=8),
            "multiply_words HalfGemm Bf16 has no HMMA",
        ),
        (
            "multiply_tile If",
            Counter(FFMA=64, STL=1),
            "multiply_tile If reads or writes local memory in 1 places",
        ),
        ("for_each", Counter(LDL=17), "for_each reads or writes local memory in 17 places"),
        ("for_each", Counter(BPT=1), "for_each ends in a trap"),
    ]:
        assert complaints({**SOUND, (80, kernel): count}) == [f"sm_80: {message}"]
    without = {(80, kernel): count for (_, kernel), count in SOUND.items() if "QConv" not in kernel}
    assert complaints(without) == ["sm_80: no kernel is like multiply_words QConv"]


def test_each_architecture_counts_for_itself() -> None:
    """Turing has no tf32, which ends in a trap there and is never launched; a newer one does not make up for an older one."""
    turing = {
        (75, kernel): Counter(BPT=1) if "Tf32" in kernel else count for (_, kernel), count in SOUND.items()
    }
    assert complaints({**SOUND, **turing}) == []
    newer = {(100, kernel): Counter(count) for (_, kernel), count in SOUND.items()}
    newer[100, "multiply_words QGemm"] = Counter(LDSM=4)
    assert complaints({**SOUND, **newer}) == ["sm_100: multiply_words QGemm has no IMMA"]


def test_hopper_has_a_family_of_its_own() -> None:
    """Compiled for 90 and not for 90a its kernels would be empty; those of others are."""
    kernels = {" ".join(names): Counter(dict.fromkeys(needed, 4)) for names, needed in HOPPER.items()}
    hopper = {(90, kernel): count for (_, kernel), count in SOUND.items()}
    assert complaints({**hopper, **{(90, kernel): count for kernel, count in kernels.items()}}) == []
    assert complaints({**SOUND, **{(80, kernel): Counter(EXIT=1) for kernel in kernels}}) == []
    empty = {(90, kernel): Counter(EXIT=1) for kernel in kernels}
    found = complaints({**hopper, **empty})
    assert "sm_90: multiply_by_warpgroups HalfGemm Bf16 has no HGMMA" in found
    assert "sm_90: multiply_by_warpgroups QGemm has no UTMALDG" in found
    assert complaints(hopper) == [f"sm_90: no kernel is like {kernel}" for kernel in kernels]
