//! Listing: pages of one revision.

use std::collections::BTreeSet;

use etcd_client::GetOptions;
use etcd_client::proto::PbKeyValue;
use hither_core::{Result, ServiceName};

use super::position::Position;
use super::view::View;
use crate::client::endpoints::Checkout;
use crate::client::error::Reason;
use crate::context::Context;

/// Large enough that most services are one page, small enough that a page is far from the largest message. Where it is
/// not, because somebody has put large values among the instances, the pages become smaller, and larger again.
const PAGE: i64 = 2000;

/// The instances of `service`, as of one revision.
pub(crate) async fn service(context: &Context, checkout: &Checkout, service: &ServiceName) -> Result<View> {
    let prefix = context.codec.service_prefix(service);
    let mut view = View::new(service.clone());
    let at = pages(checkout, &prefix, |kv| {
        if let Some(suffix) = kv.key.strip_prefix(prefix.as_bytes()) {
            view.put(context, suffix, kv);
        }
    })
    .await?;
    view.set_position(at);
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
    pages(checkout, &prefix, |kv| services.extend(context.codec.service_of(&kv.key, &kv.value))).await?;
    Ok(services.into_iter().filter(|service| under.is_none_or(|under| service.is_under(under))).collect())
}

/// Gives `each` record whose key begins with `prefix`, all as of the revision of the first page.
async fn pages(checkout: &Checkout, prefix: &str, mut each: impl FnMut(&PbKeyValue)) -> Result<Position> {
    let mut kv = checkout.connection().kv();
    let end = prefix_end(prefix.as_bytes());
    let mut from = prefix.as_bytes().to_vec();
    if from.is_empty() {
        from.push(0);
    }
    let mut at: Option<Position> = None;
    let mut limit = PAGE;
    loop {
        let mut options = GetOptions::new().with_range(end.clone()).with_limit(limit);
        if let Some(at) = at {
            options = options.with_revision(at.revision);
        }
        let page = match checkout.call(kv.get(from.as_slice(), Some(options))).await {
            Ok(page) => page,
            Err(failure) if failure.reason == Reason::TooLarge && limit > 1 => {
                limit = (limit / 100).max(1);
                continue;
            }
            Err(failure) => return Err(failure.error),
        };
        limit = PAGE.min(2 * limit);
        let Some(header) = page.header() else {
            return Err(checkout.failed(checkout.connection().nonsense("a listing without a header")).error);
        };
        let now = *at.get_or_insert(Position { cluster: header.cluster_id(), revision: header.revision() });
        page.0.kvs.iter().for_each(&mut each);
        match page.0.kvs.last() {
            Some(last) if page.more() => {
                from = last.key.clone();
                from.push(0);
            }
            _ => return Ok(now),
        }
    }
}

/// The first key after all that begin with `prefix`; `\0` stands for no end.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_right_after_its_prefix() {
        assert_eq!(prefix_end(b"svc/"), b"svc0");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff\xff"), b"\0");
        assert_eq!(prefix_end(b""), b"\0");
    }
}
