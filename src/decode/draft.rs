//! What is known of an Observation once it has been read, before anybody has an opinion on it.

use smallvec::SmallVec;

use super::quantity::Value;
use super::reference::Subject;
use crate::signals::{Meaning, Panel, SignalId, Variant};

/// What an Observation says, as far as anybody asks. `T` is a [`Text`] of the record, or where a template finds it.
#[derive(Clone, Default)]
pub(super) struct Draft<T> {
    pub(super) id: Option<T>,
    pub(super) meta: Meta<T>,
    pub(super) implicit_rules: bool,
    pub(super) modified: bool,
    pub(super) status: Option<T>,
    pub(super) code: Coded,
    pub(super) subject: Subject<T>,
    pub(super) effective: Effective<T>,
    pub(super) issued: Option<T>,
    pub(super) value: Value<T>,
    /// The components whose code means a signal.
    pub(super) components: SmallVec<[Component<T>; 2]>,
    /// All components.
    pub(super) component_count: usize,
    pub(super) has_member: bool,
    pub(super) derived: bool,
    /// The first element that had a JSON type it cannot have.
    pub(super) wrong: Option<&'static str>,
}

/// `Resource.meta`.
#[derive(Clone, Copy, Default)]
pub(super) struct Meta<T> {
    pub(super) version_id: Option<T>,
    pub(super) last_updated: Option<T>,
}

/// The effective times that are given, and the text of the last.
#[derive(Clone, Copy, Default)]
pub(super) struct Effective<T> {
    pub(super) text: Option<T>,
    pub(super) instant: bool,
    /// One bit for each kind.
    pub(super) kinds: u8,
}

impl<T: Copy> Draft<T> {
    /// The same with every text exchanged. Templates live by this: what a Draft gains, they have.
    #[inline(always)]
    pub(super) fn map<U>(&self, of: &mut impl FnMut(T) -> U) -> Draft<U> {
        let Draft { id, meta, implicit_rules, modified, status, code, subject, effective, issued, .. } = *self;
        let Draft { ref value, ref components, component_count, has_member, derived, wrong, .. } = *self;
        let Effective { text, instant, kinds } = effective;
        let mut others = SmallVec::new();
        for one in components {
            others.push(one.map(of));
        }
        Draft {
            id: id.map(&mut *of),
            meta: Meta { version_id: meta.version_id.map(&mut *of), last_updated: meta.last_updated.map(&mut *of) },
            implicit_rules,
            modified,
            status: status.map(&mut *of),
            code,
            subject: subject.map(of),
            effective: Effective { text: text.map(&mut *of), instant, kinds },
            issued: issued.map(&mut *of),
            value: value.map(of),
            components: others,
            component_count,
            has_member,
            derived,
            wrong,
        }
    }
}

/// What the codings of a CodeableConcept mean, taken together.
#[derive(Clone, Copy, Default)]
pub(super) struct Coded {
    pub(super) signal: Option<SignalId>,
    /// They mean several signals.
    pub(super) ambiguous: bool,
    pub(super) specific: bool,
    pub(super) average: bool,
    /// The signal is known only from a coding without system.
    pub(super) without_system: bool,
    pub(super) panels: Panels,
}

/// Which kinds of panel were named.
#[derive(Clone, Copy, Default)]
pub(super) struct Panels(u8);

impl Panels {
    pub(super) fn add(&mut self, panel: Panel) {
        self.0 |= 1 << panel as u8;
    }

    pub(super) fn has(self, panel: Panel) -> bool {
        self.0 & 1 << panel as u8 != 0
    }

    pub(super) fn any(self) -> bool {
        self.0 != 0
    }
}

/// A component that means a signal.
#[derive(Clone)]
pub(super) struct Component<T> {
    pub(super) ordinal: usize,
    pub(super) code: Coded,
    pub(super) value: Value<T>,
}

impl<T: Copy> Component<T> {
    fn map<U>(&self, of: &mut impl FnMut(T) -> U) -> Component<U> {
        Component { ordinal: self.ordinal, code: self.code, value: self.value.map(of) }
    }
}

impl Coded {
    /// Adds what one coding means.
    pub(super) fn add(&mut self, meaning: Meaning, without_system: bool) {
        match meaning {
            Meaning::Panel(panel) => self.panels.add(panel),
            Meaning::Signal(signal, variant) => {
                match self.signal {
                    None => {
                        self.signal = Some(signal);
                        self.without_system = without_system;
                    }
                    Some(known) => {
                        self.ambiguous |= known != signal;
                        self.without_system &= without_system;
                    }
                }
                self.specific |= variant == Variant::Specific;
                self.average |= variant == Variant::Average;
            }
        }
    }
}
