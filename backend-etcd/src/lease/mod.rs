//! The lease of one registration: writing its record, renewing, restoring and removing it.

pub(crate) mod lease_id;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::proto::{PbKeyValue, PbTxnOpResponse};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnResponse};
use hither_core::{Claim, Error, ErrorKind, InstanceId, Lease, Registration, Result, ServiceName};

use crate::client::{Checkout, Reason};
use crate::context::Context;

/// Each write is conditional on the record that was read just before; so often another writer may interfere.
const ATTEMPTS: usize = 5;

/// A renewal may take a third of the TTL, but always this much.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(500);

/// One record on one etcd lease of its own.
///
/// It has no task, and no state in etcd but the lease: when it is dropped, or the process dies, etcd removes the record
/// after the TTL.
#[derive(Debug)]
pub(crate) struct EtcdLease {
    context: Arc<Context>,
    id: i64,
    ttl: Duration,
    service: ServiceName,
    instance_id: InstanceId,
    key: String,
    /// The desired value of the record.
    value: String,
    address: String,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    /// The lease is gone in etcd.
    Expired,
    /// It was revoked by us.
    Revoked,
}

/// The record in etcd, as far as it matters.
#[derive(Debug)]
struct StoredRecord {
    lease: i64,
    mod_revision: i64,
    value: Vec<u8>,
}

impl StoredRecord {
    fn of(kv: &PbKeyValue) -> Self {
        Self { lease: kv.lease, mod_revision: kv.mod_revision, value: kv.value.clone() }
    }
}

impl EtcdLease {
    /// Grants a lease and puts the record on it.
    pub(crate) async fn register(
        context: Arc<Context>,
        registration: &Registration,
        claim: Claim,
    ) -> Result<Self> {
        let instance = registration.instance();
        let mut lease = Self {
            id: context.lease_ids.next_lease(),
            ttl: registration.ttl(),
            service: registration.service().clone(),
            instance_id: instance.id().clone(),
            key: context.codec.key(registration.service(), instance.id()),
            value: context.codec.value(registration.service(), instance)?,
            address: instance.address().to_string(),
            state: State::Live,
            context,
        };
        let context = Arc::clone(&lease.context);
        let _turn = context.turn().await;
        let checkout = context.checkout().await?;
        lease.grant(&checkout).await?;
        let written = match claim {
            Claim::TakeOver => lease.hold(&checkout, lease.writing(vec![])).await,
            Claim::IfVacant => lease.hold(&checkout, lease.create()).await,
            claim => Err(Error::new(ErrorKind::Unsupported, format!("the claim {claim:?} is not known"))),
        };
        match written {
            Ok(()) => Ok(lease),
            Err(error) => {
                // Best effort, where it is known that there is no record on the lease. Else the TTL ends it: a write without a
                // response may still be applied.
                let refused = [
                    ErrorKind::Superseded,
                    ErrorKind::InvalidArgument,
                    ErrorKind::PermissionDenied,
                    ErrorKind::Unauthenticated,
                    ErrorKind::Unsupported,
                ];
                if refused.contains(&error.kind()) {
                    let _ = checkout.revoke(lease.id).await;
                }
                Err(error)
            }
        }
    }

    async fn grant(&mut self, checkout: &Checkout) -> Result<()> {
        for _ in 0..ATTEMPTS {
            match checkout.grant(self.id, self.ttl).await {
                Ok(ttl) => {
                    self.ttl = ttl;
                    return Ok(());
                }
                // Not an echo of our own request, for no id is requested twice: another owner has it, and a lease that two
                // share ends with the first.
                Err(failure) if failure.reason == Reason::LeaseExists => {
                    self.id = self.context.lease_ids.next_lease();
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "every lease id that was tried is taken"))
    }

    /// Writes the record if `when` holds, and reads it otherwise.
    fn writing(&self, when: Vec<Compare>) -> Txn {
        let put =
            TxnOp::put(self.key.as_str(), self.value.as_str(), Some(PutOptions::new().with_lease(self.id)));
        Txn::new().when(when).and_then(vec![put]).or_else(vec![TxnOp::get(self.key.as_str(), None)])
    }

    /// Writes the record if there is none.
    fn create(&self) -> Txn {
        self.writing(vec![Compare::version(self.key.as_str(), CompareOp::Equal, 0)])
    }

    /// Writes the record if it is unchanged since it was read.
    fn replace(&self, seen: &StoredRecord) -> Txn {
        self.writing(vec![Compare::mod_revision(self.key.as_str(), CompareOp::Equal, seen.mod_revision)])
    }

    /// Runs `txn`, whose failing branch reads the record; if it fails, writes the record where this is our right, on the
    /// condition that it has not changed since.
    async fn hold(&self, checkout: &Checkout, mut txn: Txn) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let response = checkout.txn(txn).await?;
            if response.succeeded() {
                return Ok(());
            }
            txn = self.claim(self.found(&response).as_ref())?;
        }
        let message = format!("{} is written by others faster than it can be claimed", self.key);
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    /// Writes the record if it has not changed since it was read, where this is our right.
    fn claim(&self, seen: Option<&StoredRecord>) -> Result<Txn> {
        match seen {
            None => Ok(self.create()),
            Some(seen) if self.may_replace(seen) => Ok(self.replace(seen)),
            Some(seen) => Err(self.superseded(seen)),
        }
    }

    /// Whether the record belongs to us, whichever writer changed it.
    fn may_replace(&self, found: &StoredRecord) -> bool {
        found.lease == self.id
            // Our own earlier write, which timed out and was applied after its successor.
            || self.context.lease_ids.is_earlier(found.lease, self.id)
            || self.lost_its_lease(found)
    }

    /// Whether a Go `Manager` has put our endpoint again, which detaches it from its lease, or another writer something that
    /// is not an endpoint at all: without a lease it would stay for ever.
    fn lost_its_lease(&self, found: &StoredRecord) -> bool {
        let address = self.context.codec.address_text(&found.value).unwrap_or_default();
        found.lease == 0 && (address == self.address || address.is_empty())
    }

    /// Removes a record of ours that revoking the lease has not removed.
    async fn remove_without_lease(&self, checkout: &Checkout) -> Result<()> {
        let key = self.key.as_str();
        let look = Txn::new().when(vec![Compare::lease(key, CompareOp::NotEqual, 0)]);
        let look = look.or_else(vec![TxnOp::get(key, None)]);
        let looked = checkout.txn(look).await?;
        let found = self.found(&looked).filter(|found| self.lost_its_lease(found));
        let Some(found) = found else { return Ok(()) };
        let unchanged = vec![Compare::mod_revision(key, CompareOp::Equal, found.mod_revision)];
        let remove = Txn::new().when(unchanged).and_then(vec![TxnOp::delete(key, None)]);
        checkout.txn(remove).await?;
        Ok(())
    }

    /// The record in the failing branch of a transaction.
    fn found(&self, response: &TxnResponse) -> Option<StoredRecord> {
        // Not `op_responses()`, which panics on an empty one.
        let responses = response.0.responses.iter().filter_map(|response| response.response.as_ref());
        let kvs = responses.filter_map(|response| match response {
            PbTxnOpResponse::ResponseRange(range) => Some(&range.kvs),
            _ => None,
        });
        kvs.flatten().find(|kv| kv.key == self.key.as_bytes()).map(StoredRecord::of)
    }

    fn superseded(&self, found: &StoredRecord) -> Error {
        let owner = match found.lease {
            0 => "a writer without a lease".to_owned(),
            lease => format!("lease {lease:x}"),
        };
        let message = format!("{} of {} is held by {owner}", self.instance_id, self.service);
        Error::new(ErrorKind::Superseded, message)
    }

    fn check(&self) -> Result<()> {
        match self.state {
            State::Live => Ok(()),
            State::Expired => {
                Err(Error::new(ErrorKind::LeaseExpired, format!("lease {:x} is gone", self.id)))
            }
            State::Revoked => {
                Err(Error::new(ErrorKind::LeaseExpired, format!("lease {:x} was revoked", self.id)))
            }
        }
    }

    /// Remembers that the lease is gone.
    fn settle(&mut self, outcome: Result<()>) -> Result<()> {
        if let Err(error) = &outcome
            && error.kind() == ErrorKind::LeaseExpired
        {
            self.state = State::Expired;
        }
        outcome
    }

    async fn renew_once(&self) -> Result<()> {
        let checkout = self.context.checkout().await?;
        let within = (self.ttl / 3).max(SHORTEST_TIMEOUT);
        checkout.keep_alive(self.id, within).await?;
        // The lease is no proof of the record. Only a read, which an etcd that is out of space answers, too.
        match checkout.get(&self.key).await?.as_ref().map(StoredRecord::of) {
            Some(found) if found.lease == self.id && found.value == self.value.as_bytes() => Ok(()),
            found => self.hold(&checkout, self.claim(found.as_ref())?).await,
        }
    }

    async fn update_once(&self) -> Result<()> {
        let _turn = self.context.turn().await;
        let checkout = self.context.checkout().await?;
        let ours = vec![Compare::lease(self.key.as_str(), CompareOp::Equal, self.id)];
        self.hold(&checkout, self.writing(ours)).await
    }
}

#[async_trait]
impl Lease for EtcdLease {
    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn renew(&mut self) -> Result<()> {
        let renewed = async {
            self.check()?;
            self.renew_once().await
        };
        let renewed = renewed.await;
        self.settle(renewed).map_err(|error| error.with_operation("renew"))
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        let outcome = self.update_to(registration).await;
        self.settle(outcome).map_err(|error| error.with_operation("update"))
    }

    async fn revoke(&mut self) -> Result<()> {
        if self.state == State::Revoked {
            return Ok(());
        }
        let revoked = async {
            let _turn = self.context.turn().await;
            let checkout = self.context.checkout().await?;
            checkout.revoke(self.id).await?;
            self.remove_without_lease(&checkout).await
        };
        revoked.await.map_err(|error: Error| error.with_operation("revoke"))?;
        self.state = State::Revoked;
        Ok(())
    }
}

impl EtcdLease {
    async fn update_to(&mut self, registration: &Registration) -> Result<()> {
        self.check()?;
        let instance = registration.instance();
        if *instance.id() != self.instance_id || *registration.service() != self.service {
            let (ours, service) = (&self.instance_id, &self.service);
            let (other, theirs) = (instance.id(), registration.service());
            let message = format!("the lease is of instance {ours} of {service}, not of {other} of {theirs}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let value = self.context.codec.value(&self.service, instance)?;
        // From here on the new content is desired, whatever the outcome of this call: a `renew` after a timeout, or after this
        // future was dropped, applies it.
        let before = (
            std::mem::replace(&mut self.value, value),
            std::mem::replace(&mut self.address, instance.address().to_string()),
        );
        let outcome = self.update_once().await;
        if let Err(error) = &outcome
            && error.kind() == ErrorKind::InvalidArgument
        {
            // etcd will never accept it; a renewal must not try.
            (self.value, self.address) = before;
        }
        outcome
    }
}
