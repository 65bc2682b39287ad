//! Hedging: a call is sent to another instance while it is not answered (gRFC A6).

use std::pin::pin;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep_until};
use tonic::Code;
use tracing::debug;

use super::Call;
use super::config::CalledInstance;
use super::failure::{Answer, Failure};
use super::pick::Picking;
use super::remainder::{First, Remainder};
use crate::client::balance::CallInfo;
use crate::client::ready_instance::ReadyInstance;
use crate::client::retry::{Hedging, Limits, Pushback};

type Ended<'a> = (Result<Answer, Failure>, Remainder<'a>);

/// Runs a call to its first response, or its last failure. The other attempts are dropped, which cancels them.
pub(super) async fn hedge<'a>(
    call: &'a Call,
    mut remainder: Remainder<'a>,
    (hedging, limits): (&Hedging, &'a Limits),
    first: First,
) -> Ended<'a> {
    // A call that has to wait is hedged from when it was sent.
    let first = match first {
        First::Unpicked(request) => remainder.begin(request).await,
        first => first,
    };
    let mut tried = Vec::new();
    note(&mut tried, &first);
    let (began, delay) = (Instant::now(), hedging.delay(call.head.path()));
    let mut next = pin!(sleep_until(began + delay.unwrap_or_default()));
    // Whether the next attempt is made at that time.
    let mut is_due = delay.is_some();
    let most = if call.content.is_complete() { hedging.max_attempts } else { 1 };
    let mut sent = 1;
    let mut first_has_failed = false;
    let mut last = None;
    let mut open = FuturesUnordered::new();
    open.push(run(remainder, first));
    loop {
        tokio::select! {
            biased;
            Some((result, mut remainder)) = open.next() => {
                let failure = match result {
                    Ok(answer) => {
                        if !first_has_failed {
                            hedging.on_answer(call.head.path(), began.elapsed());
                        }
                        if let Some(called) = call.head.extensions.get::<CalledInstance>() {
                            called.set(answer.1.instance());
                        }
                        return (Ok(answer), remainder);
                    }
                    Err(failure) => failure,
                };
                if failure.is_unprocessed && open.is_empty() {
                    let first = remainder.begin(call.head.again()).await;
                    note(&mut tried, &first);
                    open.push(run(remainder, first));
                    continue;
                }
                first_has_failed |= remainder.is_first();
                if failure.is_unprocessed {
                    // As if it had not been sent: another one may go elsewhere, or where it was when no other is open.
                    sent -= 1;
                    if !is_due {
                        is_due = true;
                        next.as_mut().reset(Instant::now());
                    }
                    continue;
                }
                let is_forbidden = failure.pushback == Some(Pushback::Stop);
                // Where no instance is ready, there is none a moment later either.
                let is_non_fatal = failure.instance.is_some() && hedging.is_non_fatal(failure.code);
                if is_forbidden || is_non_fatal {
                    limits.on_failure();
                }
                if !is_non_fatal {
                    // At the deadline all of them have failed.
                    while open.next().now_or_never().flatten().is_some() {}
                    return (Err(failure), remainder);
                }
                if is_forbidden {
                    sent = most;
                }
                let wait = match failure.pushback {
                    Some(Pushback::After(wait)) => wait,
                    _ => std::time::Duration::ZERO,
                };
                let at = Instant::now() + wait;
                let is_late = call.head.deadline.is_some_and(|deadline| at >= deadline.at);
                if open.is_empty() && (sent >= most || is_late) {
                    return (Err(failure), remainder);
                }
                is_due = true;
                next.as_mut().reset(at);
                last = Some((Err(failure), remainder));
            }
            () = &mut next, if is_due && sent < most => {
                let mut remainder = Remainder::of(call, None);
                remainder.join(&tried, sent);
                // The only attempt waits for an instance; another one does not, and goes elsewhere.
                let first = if !open.is_empty() {
                    elsewhere(call, limits, &tried, sent)
                } else if let Some(withdrawal) = limits.withdraw() {
                    remainder.pay_with(withdrawal);
                    Some(remainder.begin(call.head.again()).await)
                } else {
                    None
                };
                match (first, last.take()) {
                    (Some(first), _) => {
                        note(&mut tried, &first);
                        let method = call.head.path();
                        debug!(service = %call.calls.service, method, attempt = sent + 1, "call hedged");
                        sent += 1;
                        is_due = delay.is_some();
                        next.as_mut().reset(Instant::now() + delay.unwrap_or_default());
                        open.push(run(remainder, first));
                    }
                    (None, Some(ended)) if open.is_empty() => return ended,
                    // There is no other instance with capacity, or too much has been hedged: not before one fails.
                    (None, _) => is_due = false,
                }
            }
        }
    }
}

async fn run<'a>(mut remainder: Remainder<'a>, first: First) -> Ended<'a> {
    (remainder.run(first).await, remainder)
}

/// Notes where an attempt is.
fn note(tried: &mut Vec<ReadyInstance>, first: &First) {
    if let First::Sent(attempt, _) = first {
        tried.push(attempt.instance().clone());
    }
}

/// Sends the call to an instance that was not tried, if there is one with capacity and the budget allows it.
fn elsewhere(call: &Call, limits: &Limits, tried: &[ReadyInstance], previous: u32) -> Option<First> {
    let withdrawal = limits.withdraw()?;
    let request = call.head.again();
    let info = CallInfo::new(call.head.path(), request.headers(), &call.head.extensions);
    let (mut attempt, slot) = Picking { tried, ..call.picking(info, previous) }.elsewhere()?.begin();
    let Some(body) = call.content.attempt() else {
        attempt.unsent(Code::Cancelled);
        return None;
    };
    Some(match call.send(&mut attempt, slot, request, body, Some(previous)) {
        Ok(sending) => {
            withdrawal.spend();
            First::Sent(attempt, sending)
        }
        Err(status) => First::Failed(Failure::last(status)),
    })
}
