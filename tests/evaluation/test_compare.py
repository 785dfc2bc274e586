"""Baselines, intervals and tables, and the floors of the real scans."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from medi2i.errors import ConfigError, IntensityError, OutputError, UsageError
from medi2i.evaluation import (
    Case,
    PointwiseMap,
    Row,
    Scores,
    ScoreTable,
    bootstrap_interval,
    compare,
    evaluate,
    protocol,
)
from medi2i.volume import Volume, load_volume

DATA = Path(__file__).parents[3] / "shared" / "data"
TASK = "T1w->T2w"


def subject(seed: int, shape: tuple[int, int, int] = (14, 13, 12)) -> tuple[Volume, Volume]:
    """A source in air and a target that is bright where the source is dark."""
    rng = np.random.default_rng(seed)
    source = np.where(rng.random(shape) < 0.7, 50 + 100 * rng.random(shape), 0)
    target = np.where(source > 0, 900 - 4 * source + 20 * rng.standard_normal(shape), 0)
    return Volume.of(source), Volume.of(target)


def map_of(seed: int) -> PointwiseMap:
    source, target = subject(seed)
    return PointwiseMap.of(source.voxels, target.voxels)


def case(seed: int, *, task: str = TASK, source: bool = True) -> Case:
    x, y = subject(seed)
    noise = np.random.default_rng(seed).standard_normal(y.shape) * 40
    return Case(f"sub-{seed}", task, {"mine": y.like(y.voxels + noise)}, y, x if source else None)


def scores(psnr: float, extra: float | None = None) -> Scores:
    more = {} if extra is None else {"ssim_tumour": extra}
    return Scores("brain-3d@1", psnr, psnr / 40, 0.1, 0.2, 1000, more)


def table(*psnrs: float) -> ScoreTable:
    rows = [Row(f"s{i}", TASK, "mine", scores(psnr)) for i, psnr in enumerate(psnrs)]
    return ScoreTable(protocol("brain-3d"), tuple(rows))


def test_pointwise_map_by_hand() -> None:
    # Bins 1/64 wide: 0.1 lies in bin 6, 0.9 in bin 57.
    fitted = PointwiseMap.fit([(np.array([0.1, 0.1, 0.9]), np.array([0.5, 1.0, 0.25]))])
    assert (fitted.totals[6], fitted.counts[6]) == (1.5, 2)
    assert (fitted.totals[57], fitted.counts[57]) == (0.25, 1)
    assert sum(fitted.counts) == 3
    middles = np.array([6.5 / 64, 57.5 / 64])
    np.testing.assert_allclose(fitted.apply(middles), [0.75, 0.25])
    np.testing.assert_allclose(fitted.apply(np.array([[0.0, 1.0]])), [[0.75, 0.25]])
    assert fitted.apply(np.array(0.5)) == pytest.approx(0.5)  # 32 lies halfway from 6.5 to 57.5


def test_pointwise_maps_add_up() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.random(500), rng.random(500)) for _ in range(2)]
    first, second = (PointwiseMap.fit([pair]) for pair in pairs)
    both = first + second
    assert both.counts == PointwiseMap.fit(pairs).counts
    np.testing.assert_allclose(both.totals, PointwiseMap.fit(pairs).totals)


def test_pointwise_map_is_kept_as_json() -> None:
    fitted = map_of(0)
    assert PointwiseMap.from_dict(json.loads(json.dumps(fitted.as_dict()))) == fitted
    for wrong in ({}, {"totals": [1.0], "counts": []}, {"totals": ["a"], "counts": [1]}):
        with pytest.raises(ConfigError):
            PointwiseMap.from_dict(wrong)
    with pytest.raises(IntensityError):
        PointwiseMap.fit([])


def test_pointwise_map_finds_an_inverted_contrast() -> None:
    source, target = subject(1)
    fitted = PointwiseMap.of(source.voxels, target.voxels)
    predicted = fitted.predict(source.voxels)
    brain = source.voxels > 0
    assert np.corrcoef(predicted[brain], target.voxels[brain])[0, 1] > 0.95
    assert not predicted[~brain].any()
    with pytest.raises(IntensityError, match="no voxel of the source"):
        fitted.predict(np.zeros((4, 4, 4)))


def test_bootstrap() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    first = bootstrap_interval(values)
    assert first == bootstrap_interval(values)
    assert first is not None
    assert 1 <= first[0] < 3.75 < first[1] <= 8
    spread = np.random.default_rng(0).random(20)
    assert bootstrap_interval(spread, seed=0) != bootstrap_interval(spread, seed=1)
    # Two values: means a, (a + b) / 2 and b with chances 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([5.0, 5.0]) == (5.0, 5.0)
    assert bootstrap_interval([5.0]) is None
    assert bootstrap_interval([5.0, math.inf]) is None


def test_bootstrap_has_the_width_of_theory() -> None:
    values = np.random.default_rng(3).normal(20, 2, 100)
    interval = bootstrap_interval(values)
    assert interval is not None
    spread = 1.96 * values.std() / 10
    assert interval == pytest.approx((values.mean() - spread, values.mean() + spread), abs=0.05)


def test_baselines_stand_beside_every_method() -> None:
    result = compare([case(0), case(1), case(2)])
    assert [(row.case, row.method) for row in result.rows[:3]] == [
        ("sub-0", "mine"),
        ("sub-0", "identity"),
        ("sub-0", "pointwise"),
    ]
    assert [summary.method for summary in result.summaries()] == ["mine", "identity", "pointwise"]
    assert all(summary.cases == 3 for summary in result.summaries())
    assert result.notes == ("T1w->T2w: pointwise is fitted to the other cases (leave-one-out).",)
    for row in result.rows:
        source, target = subject(int(row.case[-1]))
        if row.method == "identity":
            alone = protocol("brain-3d").score(source.voxels, target.voxels, source=source.voxels)
            assert row.scores == alone


def test_pointwise_leaves_the_scored_case_out() -> None:
    result = compare([case(0), case(1), case(2)])
    maps = {seed: map_of(seed) for seed in range(3)}
    source, target = subject(1)
    predicted = (maps[0] + maps[2]).predict(source.voxels)
    expected = protocol("brain-3d").score(predicted, target.voxels, source=source.voxels)
    row = next(r for r in result.rows if (r.case, r.method) == ("sub-1", "pointwise"))
    assert row.scores == expected


def test_fitted_maps_are_used() -> None:
    maps = {TASK: map_of(7)}
    seen: list[Row] = []
    result = compare([case(0)], maps=maps, watch=seen.append)
    assert [row.method for row in result.rows] == ["mine", "identity", "pointwise"]
    assert tuple(seen) == result.rows
    assert result.notes == ()


def test_further_scores_stand_beside_the_protocols() -> None:
    def further(
        case: Case, predicted: np.ndarray, target: Volume, source: Volume | None
    ) -> dict[str, float]:
        assert source is not None
        assert predicted.shape == target.shape == source.shape
        return {"furthest": float(np.abs(predicted - source.voxels).max())}

    result = compare([case(0), case(1)], further=further)
    assert result.metrics[-1] == "furthest"
    for row in result.rows:
        assert (row.scores.extra["furthest"] == 0) is (row.method == "identity")
    assert compare([case(0), case(1)]).metrics == ("psnr", "ssim", "mae", "nmse")


def test_a_single_case_says_what_is_missing() -> None:
    result = compare([case(0)])
    assert [row.method for row in result.rows] == ["mine", "identity"]
    assert "pointwise n/a: no fitted map" in result.notes[0]
    assert result.summaries()[0].interval["psnr"] is None
    text = render(result)
    assert "pointwise n/a" in text
    assert "One case has no interval" in text
    bare = compare([case(0, source=False)], protocol="skimage-3d")
    assert [row.method for row in bare.rows] == ["mine"]
    assert "no source" in bare.notes[0]


def test_masks_mean_what_the_protocol_says() -> None:
    # A tumour mask must not become the brain of the pointwise map.
    first, second = case(0), case(1)
    assert first.source is not None
    assert isinstance(first.target, Volume)
    tumour = np.zeros(first.target.shape)
    tumour[4:9, 4:9, 4:9] = 1
    mask = first.target.like(tumour)
    pair = [Case(c.name, TASK, c.predictions, c.target, c.source, mask) for c in (first, second)]
    result = compare(pair, protocol="brasyn")
    assert result.metrics == ("psnr", "ssim", "mae", "nmse", "ssim_tumour")
    source, target = subject(0)
    predicted = map_of(1).predict(source.voxels)
    expected = protocol("brasyn").score(predicted, target.voxels, mask=tumour)
    assert result.rows[2].scores == expected


def test_refused_comparisons() -> None:
    with pytest.raises(UsageError, match="no cases"):
        compare([])
    with pytest.raises(UsageError, match="twice"):
        compare([case(0), case(0)])
    _, y = subject(0)
    with pytest.raises(UsageError, match='named "identity"'):
        compare([Case("a", TASK, {"identity": y}, y)])


def test_csv(tmp_path: Path) -> None:
    path = table(20.0, 22.0).to_csv(tmp_path / "scores.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["statistic"] for row in rows] == ["case", "case", "mean", "low", "high"]
    assert [float(row["psnr"]) for row in rows] == [20.0, 22.0, 21.0, 20.0, 22.0]
    assert {row["protocol"] for row in rows} == {"brain-3d@1"}
    assert [row["case"] for row in rows] == ["s0", "s1", "", "", ""]
    with pytest.raises(OutputError):
        table(1.0).to_csv(path)
    table(1.0).to_csv(path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


def test_json(tmp_path: Path) -> None:
    record = json.loads(table(20.0, math.inf).to_json(tmp_path / "scores.json").read_text())
    assert record["protocol"] == protocol("brain-3d").as_dict()
    assert record["bootstrap"] == {"resamples": 10_000, "seed": 0, "level": 0.95}
    assert [row["psnr"] for row in record["rows"]] == [20.0, "inf"]
    assert record["rows"][0]["protocol"] == "brain-3d@1"
    summary = record["summary"][0]
    assert (summary["cases"], summary["mean"]["psnr"]) == (2, "inf")
    assert summary["interval"]["psnr"] is None
    assert summary["interval"]["mae"] == [0.1, 0.1]


def test_extra_metrics_are_columns(tmp_path: Path) -> None:
    rows = (Row("a", TASK, "mine", scores(20, 0.5)), Row("b", TASK, "mine", scores(20)))
    mixed = ScoreTable(protocol("brasyn"), rows)
    assert mixed.metrics[-1] == "ssim_tumour"
    assert math.isnan(mixed.summaries()[0].mean["ssim_tumour"])
    record = json.loads(mixed.to_json(tmp_path / "x.json").read_text())
    assert record["summary"][0]["mean"]["ssim_tumour"] is None
    assert "n/a" in render(mixed)


def render(result: ScoreTable, **options: bool) -> str:
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(result.to_rich(**options))
    return console.export_text()


def test_terminal_table() -> None:
    named = (
        *table(20.0, 22.0).rows,
        Row("[red]s2", TASK, "identity", scores(15)),
    )
    text = render(ScoreTable(protocol("brain-3d"), named, ("a note",)))
    assert "brain-3d@1" in text
    assert "21.00 [20.00, 22.00]" in text
    assert "[red]s2" in text  # names are no markup
    assert "a note" in text
    assert "s0" in text
    short = render(ScoreTable(protocol("brain-3d"), named), per_case=False)
    assert "s0" not in short
    assert "mean of 2" in short


def scan(folder: str, subject: str, contrast: str) -> Path:
    path = DATA / folder / f"sub-{subject}" / "anat" / f"sub-{subject}_{contrast}.nii.gz"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in ../shared/data")
    return path


VAL = ("KIRBY113", "MSD001", "TCGA061802")


def test_identity_floor_of_the_val_volumes() -> None:
    """The published floor of T1w->T2w: 16.7 dB / .47."""
    rows = []
    for name in VAL:
        source = load_volume(scan("volumes", name, "T1w"))
        rows.append(evaluate(source, scan("volumes", name, "T2w"), source=source))
    assert np.mean([row.psnr for row in rows]) == pytest.approx(16.7, abs=0.05)
    assert np.mean([row.ssim for row in rows]) == pytest.approx(0.47, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "identity", "pointwise"),
    [
        ("T1w->T2w", (16.7, 0.47), (16.5, 0.39)),
        ("T2w->T1w", (13.9, 0.36), (14.9, 0.45)),
        ("T1w->FLAIR", (16.2, 0.32), (16.5, 0.43)),
        ("T2w->FLAIR", (14.7, 0.33), (16.1, 0.50)),
    ],
)
def test_floors_of_the_val_volumes(
    task: str, identity: tuple[float, float], pointwise: tuple[float, float]
) -> None:
    """The published floors; the pointwise map is fitted to the three train volumes."""
    contrasts = task.split("->")
    fitted = []
    for folder, name in (("openms", "MS07"), ("openms", "MS26"), ("volumes", "TCGADU7294")):
        x, y = (load_volume(scan(folder, name, contrast)) for contrast in contrasts)
        fitted.append(PointwiseMap.of(x.voxels, y.voxels))
    cases = []
    for name in VAL:
        source, target = (scan("volumes", name, contrast) for contrast in contrasts)
        cases.append(Case(name, task, {}, target, source))
    result = compare(cases, maps={task: sum(fitted[1:], start=fitted[0])})
    for summary, (psnr, ssim) in zip(result.summaries(), (identity, pointwise), strict=True):
        assert summary.mean["psnr"] == pytest.approx(psnr, abs=0.05)
        assert summary.mean["ssim"] == pytest.approx(ssim, abs=0.005)


def test_floor_of_the_lgg_val_patients() -> None:
    """The published floor of T1w->FLAIR: identity 20.8 dB / .64."""
    listed = DATA / "lgg" / "participants.tsv"
    if not listed.is_file():
        pytest.skip("needs lgg in ../shared/data")
    with listed.open(encoding="utf-8") as file:
        names = [
            row["participant_id"].removeprefix("sub-")
            for row in csv.DictReader(file, delimiter="\t")
            if row["split"] == "val"
        ]
    rows = []
    for name in names:
        source = load_volume(scan("lgg", name, "T1w"))
        rows.append(evaluate(source, scan("lgg", name, "FLAIR"), source=source))
    assert len(rows) == 7
    assert np.mean([row.psnr for row in rows]) == pytest.approx(20.8, abs=0.05)
    assert np.mean([row.ssim for row in rows]) == pytest.approx(0.64, abs=0.005)
