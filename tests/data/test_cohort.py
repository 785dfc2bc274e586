from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from medi2i.contrasts import Contrast
from medi2i.data.cohort import Cohort, find_cohort
from medi2i.errors import CohortError, MissingFileError

T1W, T2W, FLAIR, T1CE = Contrast.T1W, Contrast.T2W, Contrast.FLAIR, Contrast.T1CE

Tree = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Writes files by relative name; scans are empty, since finding them reads none."""

    def write(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def scans(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "")


BIDS = {
    "participants.tsv": "participant_id\tage\tsplit\nsub-1\t40\ttrain\nsub-2\tn/a\tval\n",
    **scans(
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_T2w.nii.gz",
        "sub-1/anat/sub-1_ce-gad_T1w.nii.gz",
        "sub-1/anat/sub-1_T1w_mask.nii.gz",
        "sub-1/anat/sub-1_dseg.nii.gz",
        "sub-2/ses-1/anat/sub-2_ses-1_T1w.nii",
        "sub-2/ses-2/anat/sub-2_ses-2_run-1_FLAIR.nii.gz",
        "sub-2/ses-2/anat/sub-2_ses-2_run-2_FLAIR.nii.gz",
        "sub-3/anat/sub-3_T1w.nii.gz",
        "sub-4/func/sub-4_bold.nii.gz",
        "derivatives/x/sub-9/anat/sub-9_T1w.nii.gz",
    ),
}


def named(cohort: Cohort) -> list[tuple[str, str, str | None]]:
    return [(subject.name, subject.person, subject.split) for subject in cohort]


# ---- BIDS folders


def test_a_bids_folder(tree: Tree) -> None:
    root = tree(BIDS)
    cohort = find_cohort(root)
    assert named(cohort) == [
        ("sub-1", "sub-1", "train"),
        ("sub-2_ses-1", "sub-2", "val"),
        ("sub-2_ses-2", "sub-2", "val"),
        ("sub-3", "sub-3", None),
    ]
    first = next(iter(cohort))
    anat = root / "sub-1" / "anat"
    assert first.scans == {
        T1CE: anat / "sub-1_ce-gad_T1w.nii.gz",
        T1W: anat / "sub-1_T1w.nii.gz",
        T2W: anat / "sub-1_T2w.nii.gz",
    }
    assert first.study == str(root)


def test_of_two_runs_the_first_is_taken(tree: Tree) -> None:
    second_session = list(find_cohort(tree(BIDS)))[2]
    assert second_session.scans[FLAIR].name == "sub-2_ses-2_run-1_FLAIR.nii.gz"


def test_without_participants_nobody_is_in_a_split(tree: Tree) -> None:
    assert named(find_cohort(tree(scans("sub-1/anat/sub-1_T1w.nii")))) == [("sub-1", "sub-1", None)]


def test_transforms_between_contrasts(tree: Tree) -> None:
    anat = "sub-1/anat/sub-1_"
    root = tree(
        scans(
            f"{anat}T1w.nii",
            f"{anat}from-T1w_to-FLAIR_mode-image_xfm.txt",
            f"{anat}from-T2w_to-FLAIR_xfm.tfm",
            f"{anat}from-ce-gad_T1w_to-T1w_xfm.mat",
            f"{anat}from-T1w_to-MNI152NLin6Asym_mode-image_xfm.txt",
            f"{anat}from-T1w_to-T2w_xfm.h5",
        )
    )
    (subject,) = find_cohort(root)
    assert {ends: path.name for ends, path in subject.transforms.items()} == {
        (T1W, FLAIR): "sub-1_from-T1w_to-FLAIR_mode-image_xfm.txt",
        (T2W, FLAIR): "sub-1_from-T2w_to-FLAIR_xfm.tfm",
        (T1CE, T1W): "sub-1_from-ce-gad_T1w_to-T1w_xfm.mat",
    }


def test_several_roots(tree: Tree) -> None:
    root = tree({f"a/{name}": text for name, text in BIDS.items()})
    tree({"b/sub-7/anat/sub-7_T1w.nii": "", "b/sub-1/anat/sub-1_FLAIR.nii": ""})
    cohort = find_cohort([root / "a", root / "b"])
    assert len(cohort) == 6
    # said to be in "train" once and not said at all elsewhere: no contradiction
    assert [s.split for s in cohort if s.person == "sub-1"] == ["train", None]


@pytest.mark.parametrize("files", [{}, scans("sub-1/anat/notes.txt"), scans("T1w.nii")])
def test_a_folder_without_subjects(tree: Tree, files: dict[str, str]) -> None:
    with pytest.raises(MissingFileError, match="holds no scan of a known contrast; sub-"):
        find_cohort(tree(files))


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match='nowhere" does not exist; a BIDS folder or a table'):
        find_cohort(tmp_path / "nowhere")


# ---- a person in two splits


def test_two_roots_that_disagree(tree: Tree) -> None:
    root = tree({f"a/{name}": text for name, text in BIDS.items()})
    tree({f"b/{name}": text.replace("train", "test") for name, text in BIDS.items()})
    with pytest.raises(CohortError, match=r'"sub-1" is in two splits, "train" in .* and "test" in'):
        find_cohort([root / "a", root / "b"])


def test_participants_that_contradict_themselves(tree: Tree) -> None:
    table = "participant_id\tsplit\nsub-1\ttrain\nsub-1\tval\n"
    with pytest.raises(CohortError, match='"sub-1" is in two splits, "train" and "val", in'):
        find_cohort(tree({**BIDS, "participants.tsv": table}))


def test_a_table_that_puts_sessions_apart(tree: Tree) -> None:
    table = "participant_id,session_id,split,T1w\np1,a,train,x.nii\np1,b,val,y.nii\n"
    root = tree({"table.csv": table, **scans("x.nii", "y.nii")})
    with pytest.raises(CohortError, match=r'"p1" is in two splits, "train" in .* and "val" in'):
        find_cohort(root / "table.csv")


# ---- tables


def test_a_table(tree: Tree) -> None:
    table = (
        "\ufeffparticipant_id\tsession_id\tage\tT1\tt2w\tce-gad_T1w\tsplit\n"
        "p1\ta\t40\tone/t1.nii.gz\tone/t2.nii.gz\tn/a\ttrain\n"
        "p2\t\t50\tt1 of p2.nii\t\t\t\n"
    )
    root = tree({"study.tsv": table, **scans("one/t1.nii.gz", "one/t2.nii.gz", "t1 of p2.nii")})
    cohort = find_cohort(root / "study.tsv")
    assert named(cohort) == [("p1_a", "p1", "train"), ("p2", "p2", None)]
    first, second = cohort
    assert first.scans == {T1W: root / "one/t1.nii.gz", T2W: root / "one/t2.nii.gz"}
    assert second.scans == {T1W: root / "t1 of p2.nii"}


@pytest.mark.parametrize(
    ("table", "error", "sentence"),
    [
        ("subject,T1w\np1,x.nii\n", CohortError, 'columns subject, T1w; "participant_id" was'),
        ("", CohortError, 'has the columns none; "participant_id" was expected'),
        ("participant_id,T1w\n", CohortError, "has no rows"),
        ("participant_id,T1w\n,x.nii\n", CohortError, "line 2 of .* has no participant_id"),
        ("participant_id,age\np1,40\n", CohortError, r"line 2 of .* \(p1\) names no scan"),
        ("participant_id,T1w\np1,n/a\n", CohortError, r"line 2 of .* \(p1\) names no scan"),
        ("participant_id,T1w\np1,y.nii\n", MissingFileError, 'names T1w "y.nii", which does not'),
        ("participant_id,T1w,t1\np1,x.nii,x.nii\n", CohortError, "names two scans as T1w"),
    ],
)
def test_bad_tables(tree: Tree, table: str, error: type[Exception], sentence: str) -> None:
    root = tree({"table.csv": table, "x.nii": ""})
    with pytest.raises(error, match=sentence):
        find_cohort(root / "table.csv")


def test_a_scan_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"\x1f\x8b\x08\xff\xfe\x80")
    with pytest.raises(CohortError, match=r'scan.nii.gz" is not a readable table'):
        find_cohort(path)


# ---- choosing


def test_split_and_having(tree: Tree) -> None:
    cohort = find_cohort(tree(BIDS))
    assert named(cohort.split("val")) == named(Cohort(cohort.subjects[1:3]))
    assert [s.name for s in cohort.having([T1W, T2W])] == ["sub-1"]
    with pytest.raises(CohortError, match=r'"test"; the splits found are None, train, val: name'):
        cohort.split("test")
    with pytest.raises(
        CohortError, match=r"none of 4 subjects has T2w and FLAIR; found: T1w 3, T2w 1, FLAIR 1"
    ):
        cohort.having([T2W, FLAIR])
