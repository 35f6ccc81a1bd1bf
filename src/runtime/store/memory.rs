//! A store in memory: for `demo`, `check` and tests. It ends with the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Store, StoreError, check_name};

/// Objects by name.
#[derive(Default)]
pub(super) struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Memory {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        // No change of the map can end half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        check_name(name).map_err(|why| StoreError::refused("create", name, "memory", why, "choose another name"))?;
        let mut objects = self.objects();
        let free = !objects.contains_key(name);
        if free {
            objects.insert(name.to_owned(), bytes.to_vec());
        }
        Ok(free)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.objects().get(name).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let objects = self.objects();
        let from = objects.range(prefix.to_owned()..);
        Ok(from.map(|(name, _)| name.clone()).take_while(|name| name.starts_with(prefix)).collect())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.objects().remove(name);
        Ok(())
    }
}
