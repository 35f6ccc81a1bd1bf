//! For tests: a store in which creating an object goes otherwise.

use super::{SharedStore, Store, StoreError};

/// What happens instead of creating an object in the store that is given.
type Create = dyn Fn(&dyn Store, &str, &[u8]) -> Result<bool, StoreError> + Send + Sync;

struct Creating {
    inner: SharedStore,
    create: Box<Create>,
}

/// `inner`, but for `create`.
pub(crate) fn creating(
    inner: SharedStore,
    create: impl Fn(&dyn Store, &str, &[u8]) -> Result<bool, StoreError> + Send + Sync + 'static,
) -> SharedStore {
    std::sync::Arc::new(Creating { inner, create: Box::new(create) })
}

impl Store for Creating {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        (self.create)(&*self.inner, name, bytes)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(prefix)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.inner.delete(name)
    }
}
