//! The operations of a registry.

/// One operation of the registry traits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`Registrar::register`](hither_core::Registrar::register).
    Register,
    /// [`Lease::renew`](hither_core::Lease::renew).
    Renew,
    /// [`Lease::update`](hither_core::Lease::update).
    Update,
    /// [`Lease::revoke`](hither_core::Lease::revoke).
    Revoke,
    /// [`Resolver::resolve`](hither_core::Resolver::resolve).
    Resolve,
    /// [`Resolver::watch`](hither_core::Resolver::watch).
    Watch,
    /// [`Catalog::services`](hither_core::Catalog::services).
    Services,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Renew => "renew",
            Self::Update => "update",
            Self::Revoke => "revoke",
            Self::Resolve => "resolve",
            Self::Watch => "watch",
            Self::Services => "services",
        }
    }
}
