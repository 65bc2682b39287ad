//! Listing: the instances of a service, and the services, as of one revision.

use std::collections::BTreeSet;

use etcd_client::proto::PbKeyValue;
use hither_core::{Result, ServiceName};

use super::view::View;
use crate::client::{Checkout, Failure, Position};
use crate::context::Context;

/// The instances of `service`; of the history that `since` is a position of, and not from before it.
pub(crate) async fn service(
    context: &Context,
    checkout: &Checkout,
    service: &ServiceName,
    since: Option<Position>,
) -> Result<View, Failure> {
    let prefix = context.codec.service_prefix(service);
    let mut view = View::new(service.clone());
    let listed = checkout.list(&prefix, since, |kv| {
        if let Some(suffix) = kv.key.strip_prefix(prefix.as_bytes()) {
            view.put(context, suffix, kv);
        }
    });
    let position = listed.await?;
    view.set_position(position);
    Ok(view)
}

/// The services that have instances: all, or `under` and those below it.
pub(crate) async fn services(
    context: &Context,
    checkout: &Checkout,
    under: Option<&ServiceName>,
) -> Result<Vec<ServiceName>> {
    let prefix = match under {
        Some(service) => context.codec.service_prefix(service),
        None => context.codec.prefix().to_owned(),
    };
    let mut services = BTreeSet::new();
    let each = |kv: &PbKeyValue| services.extend(context.codec.service_of(&kv.key, &kv.value));
    checkout.list(&prefix, None, each).await?;
    Ok(services.into_iter().filter(|service| under.is_none_or(|under| service.is_under(under))).collect())
}
