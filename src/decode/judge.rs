//! From what an Observation says to what becomes of it: the rules of CLINICAL.md §1, in one fixed order.
//!
//! The order decides which rule names an Observation that breaks several: elements of a wrong type; withdrawal; nothing to take;
//! modifiers; status; panel; values; time; subject; id.

use super::Settings;
use super::datetime::{date_time, instant};
use super::draft::{Coded, Draft, Meta};
use super::leniency::Leniency;
use super::observation::status;
use super::quantity::{self, Finding};
use super::reference::{self, Names, Scratch};
use super::rule;
use super::verdict::{Broken, Found, Item, Stop};
use crate::config::{Choice, MissingTime};
use crate::decode::json::Text;
use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, Panel, SYSTOLIC};
use crate::time::{EventTime, IngestTime};
use crate::vocabulary::{Leniencies, Precision, Signals, Status, Version};

/// What an Observation is judged by, apart from itself.
#[derive(Clone, Copy)]
pub(super) struct Bench<'b, 'a, 'o> {
    pub(super) settings: &'b Settings,
    pub(super) received_at: Option<IngestTime>,
    pub(super) names: &'b Names<'a, 'o>,
    pub(super) full_url: Option<Text<'a>>,
}

/// A value, judged.
struct Weighed {
    /// The component's; `usize::MAX` for the Observation's own value.
    ordinal: usize,
    code: Coded,
    finding: Finding,
    leniencies: Leniencies,
}

/// What becomes of an Observation.
pub(super) fn item(draft: &Draft<Text<'_>>, bench: Bench<'_, '_, '_>, scratch: &mut Scratch) -> Item {
    let stop = match judge(draft, bench, scratch) {
        Ok(found) => return Item::Observation(found),
        Err(stop) => stop,
    };
    match stop {
        Stop::Ignored(reason) if reason == rule::NO_VALUE => {
            Item::Absent { reason, measured: believable(draft, bench, scratch) }
        }
        Stop::Ignored(reason) => Item::Ignored(reason),
        Stop::Rejected(broken) => Item::Rejected(Broken { measured: believable(draft, bench, scratch), ..broken }),
    }
}

/// The effective time of what does not go on: there is one, it can be read, and it is not ahead of the broker's.
fn believable(draft: &Draft<Text<'_>>, bench: Bench<'_, '_, '_>, scratch: &mut Scratch) -> Option<EventTime> {
    let text = draft.effective.text.filter(|_| draft.effective.kinds.count_ones() == 1)?;
    let at = date_time(text.plain(&mut scratch.text))?.at;
    let ahead = bench.received_at.is_some_and(|received| received.precedes(at, bench.settings.clock_ahead));
    (!ahead).then_some(at)
}

/// Judges an Observation.
fn judge(draft: &Draft<Text<'_>>, bench: Bench<'_, '_, '_>, scratch: &mut Scratch) -> Result<Found, Stop> {
    if let Some(path) = draft.wrong {
        return Err(Broken::new(rule::WRONG_TYPE, path).into());
    }
    let status = draft.status.map(|text| status(text.plain(&mut scratch.text)));
    if let Some(Some(status)) = status
        && status.withdraws()
    {
        modifiers(draft)?;
        return withdrawal(draft, status, bench, scratch);
    }
    relevant(draft)?;
    modifiers(draft)?;
    let status = match status {
        Some(Some(status)) => status,
        Some(None) => return Err(Broken::new(rule::STATUS_INVALID, "status").into()),
        None => return Err(Broken::new(rule::STATUS_MISSING, "status").into()),
    };
    let settings = bench.settings;
    let mut leniencies = Leniencies::default();
    panel(draft, settings, &mut leniencies)?;
    let (signals, average) = signals(draft, settings, scratch, &mut leniencies)?;
    certain(status, settings, &mut leniencies)?;
    let (at, precision) = measured_at(draft, bench, scratch, &mut leniencies)?;
    if bench.received_at.is_some_and(|received| received.precedes(at, settings.clock_ahead)) {
        return Err(Broken::new(rule::CLOCK_AHEAD, "effective[x]").into());
    }
    let pressures = signals.iter().any(|measured| measured.signal <= MEAN_ARTERIAL);
    let summary = average || draft.code.panels.has(Panel::Average) || draft.derived && pressures;
    let identifiers = settings.subject_identifier == Choice::Accept;
    let patient = reference::patient(&draft.subject, bench.names, identifiers, scratch, &mut leniencies)?;
    let id = reference::own(draft.id, bench.full_url, b"Observation", scratch, &mut leniencies)?;
    let version = version(&draft.meta, scratch);
    Ok(Found { patient, id, at: Some(at), precision, version, status, signals, taken: true, summary, leniencies })
}

/// An Observation that only takes an earlier version back. Its time may be the very error, so it is not judged.
fn withdrawal(
    draft: &Draft<Text<'_>>,
    status: Status,
    bench: Bench<'_, '_, '_>,
    scratch: &mut Scratch,
) -> Result<Found, Stop> {
    let mut leniencies = Leniencies::default();
    let identifiers = bench.settings.subject_identifier == Choice::Accept;
    let patient = reference::patient(&draft.subject, bench.names, identifiers, scratch, &mut leniencies)?;
    let id = reference::own(draft.id, bench.full_url, b"Observation", scratch, &mut leniencies)?;
    let effective = draft.effective.text.and_then(|text| date_time(text.plain(&mut scratch.text)));
    let issued = draft.issued.and_then(|text| instant(text.plain(&mut scratch.text)));
    let at = effective.map(|moment| moment.at).or(issued);
    let precision = effective.map_or(Precision::Instant, |moment| moment.precision);
    let version = version(&draft.meta, scratch);
    let (signals, taken) = (Signals::default(), relevant(draft).is_ok());
    Ok(Found { patient, id, at, precision, version, status, signals, taken, summary: false, leniencies })
}

/// Is there anything that the flow takes?
fn relevant(draft: &Draft<Text<'_>>) -> Result<(), Stop> {
    let panels = draft.code.panels;
    if panels.has(Panel::Elsewhere) {
        return Err(Stop::Ignored(rule::NOT_SYSTEMIC_ARTERIAL));
    }
    if draft.code.signal.is_some() || !draft.components.is_empty() {
        return Ok(());
    }
    Err(Stop::Ignored(match (panels.any() && draft.component_count == 0, draft.has_member) {
        (true, true) => rule::NO_VALUE_MEMBERS,
        (true, false) => rule::NO_VALUE,
        (false, _) => rule::NO_SIGNAL,
    }))
}

fn modifiers(draft: &Draft<Text<'_>>) -> Result<(), Broken> {
    if draft.modified {
        return Err(Broken::new(rule::MODIFIER_EXTENSION, "modifierExtension"));
    }
    if draft.implicit_rules {
        return Err(Broken::new(rule::IMPLICIT_RULES, "implicitRules"));
    }
    Ok(())
}

/// What the code of the whole says of its components (rows 4 and 5).
fn panel(draft: &Draft<Text<'_>>, settings: &Settings, leniencies: &mut Leniencies) -> Result<(), Broken> {
    let code = &draft.code;
    if code.ambiguous {
        return Err(Broken::new(rule::CODE_AMBIGUOUS, "code.coding"));
    }
    if code.signal.is_some() {
        return Ok(());
    }
    let known = |panel| code.panels.has(panel);
    if known(Panel::Confirms) || known(Panel::Average) {
        return Ok(());
    }
    if known(Panel::Superseded) {
        Leniency::PanelSuperseded.add_to(leniencies);
    } else if known(Panel::Generic) {
        if settings.panel_generic == Choice::Reject {
            return Err(Broken::new(rule::PANEL_GENERIC, "code.coding"));
        }
        Leniency::PanelGeneric.add_to(leniencies);
    } else {
        Leniency::PanelUnknown.add_to(leniencies);
    }
    Ok(())
}

/// The values, and whether any of them is an average.
fn signals(
    draft: &Draft<Text<'_>>,
    settings: &Settings,
    scratch: &mut Scratch,
    leniencies: &mut Leniencies,
) -> Result<(Signals, bool), Stop> {
    let mut weigh = |ordinal, code: Coded, value| {
        let (signal, mut needed) = (settings.table.signal(code.signal?), Leniencies::default());
        let finding = quantity::judge(value, signal, settings.unit_missing, &mut scratch.text, &mut needed);
        Some(Weighed { ordinal, code, finding, leniencies: needed })
    };
    let whole = weigh(usize::MAX, draft.code, &draft.value);
    // The code of a pure panel of components may be a signal's as well; without a value of its own it says nothing then.
    let whole = whole.filter(|one| one.finding != Finding::Absent || draft.components.is_empty());
    let (mut signals, mut average, mut seen) = (Signals::default(), false, 0u128);
    let components = draft.components.iter().filter_map(|one| weigh(one.ordinal, one.code, &one.value));
    for one in whole.into_iter().chain(components) {
        let at = |broken: Broken| if one.ordinal == usize::MAX { broken } else { broken.at(one.ordinal) };
        let Some(signal) = one.code.signal else { continue };
        if one.code.ambiguous {
            return Err(at(Broken::new(rule::CODE_AMBIGUOUS, "component.code.coding")).into());
        }
        if seen & 1 << signal.0 != 0 {
            return Err(at(Broken::new(rule::SIGNAL_REPEATED, "component.code")).into());
        }
        seen |= 1 << signal.0;
        let value = match one.finding {
            Finding::Absent => continue,
            Finding::Broken(broken) => return Err(at(broken).into()),
            Finding::Measured(value) => value,
        };
        if !signals.insert(signal, value) {
            return Err(at(Broken::new(rule::TOO_MANY_SIGNALS, "component")).into());
        }
        average |= one.code.average;
        coded(&one, settings, leniencies).map_err(at)?;
    }
    if signals.is_empty() {
        return Err(Stop::Ignored(if draft.has_member { rule::NO_VALUE_MEMBERS } else { rule::NO_VALUE }));
    }
    if let (Some(systolic), Some(diastolic)) = (signals.get(SYSTOLIC), signals.get(DIASTOLIC))
        && systolic <= diastolic
    {
        return Err(Broken::new(rule::SYSTOLIC_NOT_ABOVE_DIASTOLIC, "component.valueQuantity").into());
    }
    Ok((signals, average))
}

/// The leniencies that a value and its code needed.
fn coded(one: &Weighed, settings: &Settings, leniencies: &mut Leniencies) -> Result<(), Broken> {
    leniencies.0 |= one.leniencies.0;
    if one.code.without_system {
        let component = one.ordinal != usize::MAX;
        let name = if component { Leniency::ComponentCodeWithoutSystem } else { Leniency::CodeWithoutSystem };
        name.add_to(leniencies);
    }
    if one.code.specific {
        if settings.position_specific == Choice::Reject {
            return Err(Broken::new(rule::POSITION_SPECIFIC, "code.coding"));
        }
        Leniency::PositionSpecific.add_to(leniencies);
    }
    Ok(())
}

fn certain(status: Status, settings: &Settings, leniencies: &mut Leniencies) -> Result<(), Broken> {
    match status {
        Status::Preliminary => Leniency::StatusPreliminary.add_to(leniencies),
        Status::Registered | Status::Unknown => {
            if settings.status_uncertain == Choice::Reject {
                return Err(Broken::new(rule::STATUS_UNCERTAIN, "status"));
            }
            Leniency::StatusUncertain.add_to(leniencies);
        }
        _ => {}
    }
    Ok(())
}

/// When it was measured (rows 30 to 34).
fn measured_at(
    draft: &Draft<Text<'_>>,
    bench: Bench<'_, '_, '_>,
    scratch: &mut Scratch,
    leniencies: &mut Leniencies,
) -> Result<(EventTime, Precision), Broken> {
    let effective = &draft.effective;
    if effective.kinds.count_ones() > 1 {
        return Err(Broken::new(rule::EFFECTIVE_AMBIGUOUS, "effective[x]"));
    }
    let Some(text) = effective.text else {
        return Ok((stand_in(draft, bench, scratch, leniencies)?, Precision::Instant));
    };
    let moment = date_time(text.plain(&mut scratch.text))
        .filter(|moment| !effective.instant || moment.precision == Precision::Instant)
        .ok_or(Broken::new(rule::EFFECTIVE_INVALID, "effective[x]"))?;
    if moment.partial {
        if bench.settings.effective_partial == Choice::Reject {
            return Err(Broken::new(rule::EFFECTIVE_PARTIAL, "effective[x]"));
        }
        Leniency::EffectivePartial.add_to(leniencies);
    }
    Ok((moment.at, moment.precision))
}

/// What stands for a missing effective time. Never "now": a replay must read the same.
fn stand_in(
    draft: &Draft<Text<'_>>,
    bench: Bench<'_, '_, '_>,
    scratch: &mut Scratch,
    leniencies: &mut Leniencies,
) -> Result<EventTime, Broken> {
    let policy = bench.settings.effective_missing;
    if policy != MissingTime::Reject
        && let Some(at) = draft.issued.and_then(|text| instant(text.plain(&mut scratch.text)))
    {
        Leniency::EffectiveFromIssued.add_to(leniencies);
        return Ok(at);
    }
    if policy == MissingTime::IssuedOrReceived
        && let Some(received) = bench.received_at
    {
        Leniency::EffectiveFromReceived.add_to(leniencies);
        return Ok(EventTime::from_micros(received.micros()));
    }
    Err(Broken::new(rule::EFFECTIVE_MISSING, "effective[x]"))
}

/// `meta.versionId` if it is an integer, else `meta.lastUpdated` if it is an instant, else none.
pub(super) fn version(meta: &Meta<Text<'_>>, scratch: &mut Scratch) -> Version {
    if let Some(number) = meta.version_id.and_then(|text| reference::integer(text.plain(&mut scratch.text))) {
        return Version::Number(number);
    }
    let updated = meta.last_updated.and_then(|text| instant(text.plain(&mut scratch.text)));
    updated.map_or(Version::Unversioned, |at| Version::Updated(at.micros()))
}
