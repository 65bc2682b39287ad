//! A list of instances with a few more, made anew when one of both changes.

use hither_core::{HasId, SortedById};

use crate::client::ready_instance::ReadyInstance;

/// The list as it was made last. That it stays the same one tells others that nothing has changed.
#[derive(Debug, Default)]
pub(super) struct Joined {
    list: SortedById<ReadyInstance>,
    more: Vec<ReadyInstance>,
    joined: SortedById<ReadyInstance>,
}

impl Joined {
    /// Returns the list with those of `more` whose ids it does not have.
    pub(super) async fn of(
        &mut self,
        list: SortedById<ReadyInstance>,
        mut more: Vec<ReadyInstance>,
    ) -> SortedById<ReadyInstance> {
        more.retain(|instance| list.get(instance.id()).is_none());
        let is_same = list.is_same(&self.list)
            && more.len() == self.more.len()
            && more.iter().zip(&self.more).all(|(new, old)| new.is_same(old));
        if !is_same {
            let mut joined = list.clone();
            for instance in &more {
                joined.insert(instance.clone());
            }
            let before = std::mem::replace(self, Self { list, more, joined });
            before.list.discard().await;
            before.joined.discard().await;
        }
        self.joined.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hither_core::Instance;

    use super::*;

    fn instance(address: &str) -> ReadyInstance {
        ReadyInstance::new(Arc::new(Instance::new(address.parse().unwrap())))
    }

    #[tokio::test]
    async fn the_list_stays_the_same_until_one_of_both_changes() {
        let [a, b, c] = ["a:1", "b:1", "c:1"].map(instance);
        let (mut joined, mut list) = (Joined::default(), SortedById::new());
        list.insert(a.clone());
        assert!(joined.of(list.clone(), vec![]).await.is_same(&list));
        assert!(joined.of(list.clone(), vec![a.clone()]).await.is_same(&list), "it has this one");

        let more = || vec![a.clone(), b.clone()];
        let with_b = joined.of(list.clone(), more()).await;
        assert_eq!(with_b.len(), 2);
        assert!(joined.of(list.clone(), more()).await.is_same(&with_b));

        assert!(joined.of(list.clone(), vec![c.clone()]).await.get(c.instance().id()).is_some());
        let weight = Instance::clone(b.instance()).with_metadata("color", "blue");
        let described = b.described_as(Arc::new(weight));
        let described = joined.of(list.clone(), vec![described.clone()]).await;
        assert!(!joined.of(list.clone(), vec![b]).await.is_same(&described));
        list.insert(c);
        assert_eq!(joined.of(list, vec![]).await.len(), 2);
    }
}
