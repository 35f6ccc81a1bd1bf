//! The names under which inputs are rejected, ignored or let through. Nowhere else does `decode` spell one.
//!
//! Every rule has an example `schemas/fhir/rejected/<rule>.json`, every reason one in `schemas/fhir/ignored/<reason>.json`; both, and the
//! leniencies, are listed in `schemas/fhir/README.md`; those of outcomes alone lie in `schemas/outcomes` in the same way. Tests hold the four together. Names are metric labels: they never change.

// ---------------------------------------------------------------- records

/// The record is larger than `source.record_bytes_max`; it was not read.
pub const RECORD_TOO_LARGE: &str = "record_too_large";
/// The source could not read or decompress the record.
pub const UNREADABLE: &str = "unreadable";
/// The record is not UTF-8 (RFC 8259 §8.1): Latin-1, UTF-16, or damaged.
pub const NOT_UTF8: &str = "not_utf8";
/// The record is not JSON (RFC 8259): truncated, trailing bytes, NaN, a control character, a lone surrogate.
pub const JSON_SYNTAX: &str = "json_syntax";
/// The document is nested deeper than [`DEPTH_MAX`](super::grammar::DEPTH_MAX).
pub const JSON_DEPTH: &str = "json_depth";
/// A key that matters occurs twice in one object (`decode.duplicate_keys`).
pub const DUPLICATE_KEY: &str = "duplicate_key";
/// Where a resource should be there is something else than a JSON object: an array, a number, a doubly encoded string.
pub const NOT_AN_OBJECT: &str = "not_an_object";
/// `decode.unwrap` points at nothing in this record.
pub const UNWRAP_MISSING: &str = "unwrap_missing";
/// The object has no `resourceType`, so it is no FHIR resource.
pub const RESOURCE_TYPE_MISSING: &str = "resource_type_missing";
/// `Bundle.entry` is not an array.
pub const BUNDLE_ENTRY_NOT_ARRAY: &str = "bundle_entry_not_array";

// ---------------------------------------------------------------- the Observation as a whole

/// An element has a JSON type that FHIR does not give it.
pub const WRONG_TYPE: &str = "wrong_type";
/// `modifierExtension` is used: it may turn the meaning of the rest around (FHIR R4 §2.4.1).
pub const MODIFIER_EXTENSION: &str = "modifier_extension";
/// `implicitRules` is used: the content cannot be understood without them (FHIR R4 §2.26.3.3).
pub const IMPLICIT_RULES: &str = "implicit_rules";
/// There is no status; it is required and a modifier.
pub const STATUS_MISSING: &str = "status_missing";
/// The status is none of FHIR's codes, case included.
pub const STATUS_INVALID: &str = "status_invalid";
/// The status is `registered` or `unknown` and there are values (`decode.status_uncertain`).
pub const STATUS_UNCERTAIN: &str = "status_uncertain";
/// Only SNOMED CT 75367002 says what was measured (`decode.panel_generic`).
pub const PANEL_GENERIC: &str = "panel_generic";
/// The code names a position or method (`decode.position_specific`).
pub const POSITION_SPECIFIC: &str = "position_specific";
/// The codings of one element mean different signals.
pub const CODE_AMBIGUOUS: &str = "code_ambiguous";
/// One signal is measured twice in one Observation.
pub const SIGNAL_REPEATED: &str = "signal_repeated";
/// More configured signals than [`Signals::MEASURED_MAX`](crate::vocabulary::Signals::MEASURED_MAX).
pub const TOO_MANY_SIGNALS: &str = "too_many_signals";
/// The Observation's own id is longer than an id can be, or holds characters that no id holds.
pub const ID_INVALID: &str = "id_invalid";

// ---------------------------------------------------------------- whose it is

/// There is no subject, or only a name to show.
pub const SUBJECT_MISSING: &str = "subject_missing";
/// The subject is no patient, or its reference does not lead to one: a Group, a conditional reference, a malformed one.
pub const SUBJECT_INVALID: &str = "subject_invalid";
/// The subject is a contained resource: its id means nothing outside the Observation.
pub const SUBJECT_CONTAINED: &str = "subject_contained";
/// The subject is known only by a logical identifier (`decode.subject_identifier`).
pub const SUBJECT_IDENTIFIER: &str = "subject_identifier";

// ---------------------------------------------------------------- when it was measured

/// There is no effective time, nor what `decode.effective_missing` allows in its place.
pub const EFFECTIVE_MISSING: &str = "effective_missing";
/// The effective time is no FHIR dateTime: no zone, no seconds, a day that does not exist.
pub const EFFECTIVE_INVALID: &str = "effective_invalid";
/// More than one `effective[x]`.
pub const EFFECTIVE_AMBIGUOUS: &str = "effective_ambiguous";
/// Only the year or the month is known (`decode.effective_partial`).
pub const EFFECTIVE_PARTIAL: &str = "effective_partial";
/// The device's clock ran ahead of the broker's by more than `decode.clock_ahead`.
pub const CLOCK_AHEAD: &str = "clock_ahead";

// ---------------------------------------------------------------- what was measured

/// The value is something else than a Quantity: "120/80" as text, a range.
pub const VALUE_NOT_QUANTITY: &str = "value_not_quantity";
/// The Quantity has no value, and nothing says why.
pub const VALUE_MISSING: &str = "value_missing";
/// The Quantity's value is no JSON number.
pub const VALUE_NOT_NUMBER: &str = "value_not_number";
/// The value is a number beyond what 64 bits can hold.
pub const VALUE_NOT_FINITE: &str = "value_not_finite";
/// A value and a reason for its absence at the same time (invariant obs-6).
pub const VALUE_AND_ABSENT_REASON: &str = "value_and_absent_reason";
/// The value is a bound (`<`, `>`), not a measurement.
pub const COMPARATOR: &str = "comparator";
/// The value has no unit (`decode.unit_missing`).
pub const UNIT_MISSING: &str = "unit_missing";
/// The unit is none of the signal's.
pub const UNIT_OTHER: &str = "unit_other";
/// The value lies outside the signal's plausible range.
pub const IMPLAUSIBLE: &str = "implausible";
/// The systolic pressure is not above the diastolic one.
pub const SYSTOLIC_NOT_ABOVE_DIASTOLIC: &str = "systolic_not_above_diastolic";

/// All rules, in the order above.
pub const REJECTED: [&str; 41] = [
    RECORD_TOO_LARGE,
    UNREADABLE,
    NOT_UTF8,
    JSON_SYNTAX,
    JSON_DEPTH,
    DUPLICATE_KEY,
    NOT_AN_OBJECT,
    UNWRAP_MISSING,
    RESOURCE_TYPE_MISSING,
    BUNDLE_ENTRY_NOT_ARRAY,
    WRONG_TYPE,
    MODIFIER_EXTENSION,
    IMPLICIT_RULES,
    STATUS_MISSING,
    STATUS_INVALID,
    STATUS_UNCERTAIN,
    PANEL_GENERIC,
    POSITION_SPECIFIC,
    CODE_AMBIGUOUS,
    SIGNAL_REPEATED,
    TOO_MANY_SIGNALS,
    ID_INVALID,
    SUBJECT_MISSING,
    SUBJECT_INVALID,
    SUBJECT_CONTAINED,
    SUBJECT_IDENTIFIER,
    EFFECTIVE_MISSING,
    EFFECTIVE_INVALID,
    EFFECTIVE_AMBIGUOUS,
    EFFECTIVE_PARTIAL,
    CLOCK_AHEAD,
    VALUE_NOT_QUANTITY,
    VALUE_MISSING,
    VALUE_NOT_NUMBER,
    VALUE_NOT_FINITE,
    VALUE_AND_ABSENT_REASON,
    COMPARATOR,
    UNIT_MISSING,
    UNIT_OTHER,
    IMPLAUSIBLE,
    SYSTOLIC_NOT_ABOVE_DIASTOLIC,
];

// ---------------------------------------------------------------- ignored

/// A Patient resource: what it says is taken, but it is no observation.
pub const PATIENT: &str = "patient";
/// A Condition resource, in a flow that takes them (`decode.conditions`): what it says is taken, but it is no observation.
pub const CONDITION: &str = "condition";
/// A resource of another type.
pub const OTHER_RESOURCE: &str = "other_resource";
/// An Observation of nothing that the flow takes.
pub const NO_SIGNAL: &str = "no_signal";
/// The signals are named, but none has a value.
pub const NO_VALUE: &str = "no_value";
/// A panel that only refers to its members; they arrive on their own.
pub const NO_VALUE_MEMBERS: &str = "no_value_members";
/// A pressure that is not systemic arterial, whatever its components are coded as.
pub const NOT_SYSTEMIC_ARTERIAL: &str = "not_systemic_arterial";
/// A Bundle entry without a resource: null, empty, id-only, or a mere response.
pub const NO_RESOURCE: &str = "no_resource";
/// A Bundle without entries.
pub const EMPTY_BUNDLE: &str = "empty_bundle";
/// An envelope without an observation.
pub const NO_OBSERVATION: &str = "no_observation";
/// A deletion that names no Observation.
pub const TOMBSTONE: &str = "tombstone";

/// All reasons, in the order above.
pub const IGNORED: [&str; 11] = [
    PATIENT,
    CONDITION,
    OTHER_RESOURCE,
    NO_SIGNAL,
    NO_VALUE,
    NO_VALUE_MEMBERS,
    NOT_SYSTEMIC_ARTERIAL,
    NO_RESOURCE,
    EMPTY_BUNDLE,
    NO_OBSERVATION,
    TOMBSTONE,
];

// ---------------------------------------------------------------- outcomes of patients

/// The record does not say which outcome it is about.
pub const OUTCOME_MISSING: &str = "outcome_missing";
/// The value of an outcome is none of 0, 1, false, true and null.
pub const OUTCOME_NOT_BINARY: &str = "outcome_not_binary";
/// Another outcome than `audit.outcomes.outcome`.
pub const OTHER_OUTCOME: &str = "other_outcome";

/// Why a record of `audit.outcomes` is ignored.
pub const OUTCOME_IGNORED: [&str; 2] = [OTHER_OUTCOME, TOMBSTONE];

/// All rules that a record of `audit.outcomes` can break, in the order in which they are looked at.
pub const OUTCOME_REJECTED: [&str; 18] = [
    RECORD_TOO_LARGE,
    UNREADABLE,
    NOT_UTF8,
    JSON_SYNTAX,
    JSON_DEPTH,
    DUPLICATE_KEY,
    NOT_AN_OBJECT,
    WRONG_TYPE,
    OUTCOME_MISSING,
    VALUE_MISSING,
    OUTCOME_NOT_BINARY,
    SUBJECT_MISSING,
    SUBJECT_INVALID,
    SUBJECT_CONTAINED,
    ID_INVALID,
    EFFECTIVE_MISSING,
    EFFECTIVE_INVALID,
    CLOCK_AHEAD,
];
