"""Taking the patient out of a derived image: DICOM PS3.15, Annex E, Basic Profile.

A derived image holds what :mod:`medi2i.formats.dicom.derived` lets through and nothing else, so
the profile is a short list here. Its texts are written by this program and name nobody, which is
what the profile's Clean Descriptors Option asks for; they stay, for they say SYNTHETIC.

What identified is replaced alike in all series of one study, in any run: pseudonym and new
identifiers are hashes of the old ones and of the study's own, which is gone afterwards. Two
studies of one patient do not show that they are. Pixels are not changed: a face can be seen in a
head with its skin on (`medi2i prepare` takes it off), and what the scanner burned in stays.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, UUID, uuid5

from medi2i.formats.dicom.codes import dcm, identifier

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["deidentified"]

REMOVED = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "OtherPatientIDs"),
    *("EthnicGroup", "StudyDescription", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID"),
    *("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName"),
    *("ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID"),
    *("SeriesDate", "SeriesTime", "InstanceCreationDate", "InstanceCreationTime"),
    *("ContributionDateTime", "InstitutionName", "StationName", "DeviceSerialNumber"),
)
"""Action X. None is required of an MR image."""
EMPTIED = (
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    *("ReferringPhysicianName", "ContentDate", "ContentTime"),
)
"""Action Z: required, and nobody's once empty."""
OPEN = ("1.2.840.10008.",)
"""Identifiers that the standard itself has given out: they name kinds, not things."""
METHOD = "medi2i: PS3.15 E.1 Basic Profile, Clean Descriptors Option"
CODES = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
)


def deidentified(dataset: Dataset) -> Dataset:
    """A copy of a derived image without anything that says whose it is."""
    study, dataset = str(dataset.StudyInstanceUID), deepcopy(dataset)
    pseudonym = "ANON" + hashlib.sha256(study.encode()).hexdigest()[:12].upper()
    _clean(dataset, uuid5(NAMESPACE_OID, study))
    dataset.PatientName = dataset.PatientID = pseudonym
    dataset.PatientIdentityRemoved = "YES"
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.DeidentificationMethod = METHOD
    dataset.DeidentificationMethodCodeSequence = [dcm(*code) for code in CODES]
    return dataset


def _clean(dataset: Dataset, study: UUID) -> None:
    """Apply the profile to a dataset and to all that is nested in it."""
    for element in list(dataset):
        if element.keyword in REMOVED or element.tag.is_private:
            del dataset[element.tag]
        elif element.keyword in EMPTIED:
            element.value = None if element.VR in ("DA", "TM") else ""
        elif element.VR == "UI":
            element.value = _replaced(element.value, study)
        elif element.VR == "SQ":
            for item in element.value:
                _clean(item, study)


def _replaced(uid: Any, study: UUID) -> Any:
    """A new identifier that follows from the old one; those of the standard as they are."""
    return uid if not uid or str(uid).startswith(OPEN) else identifier(study, str(uid))
