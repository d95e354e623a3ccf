//! Group commit over a bare tree, as one would write it by hand: callers hand their record to one thread, which commits what has
//! gathered while the batch before was synced, and answers each.

use std::sync::mpsc::{Sender, channel};

use fjall::{Database, Keyspace, PersistMode};
use tokio::sync::oneshot;

const BATCH_MAX: usize = 8_192;

struct Asked {
    key: [u8; 16],
    value: Vec<u8>,
    answer: oneshot::Sender<()>,
}

/// The callers' end. The thread ends with its last clone.
#[derive(Clone)]
pub(crate) struct ByHand(Sender<Asked>);

impl ByHand {
    pub(crate) fn new(database: Database, keyspace: Keyspace) -> Self {
        let (sender, receiver) = channel::<Asked>();
        std::thread::spawn(move || {
            while let Ok(first) = receiver.recv() {
                let mut answers = Vec::new();
                let mut write = database.batch().durability(Some(PersistMode::SyncData));
                for asked in std::iter::once(first).chain(receiver.try_iter().take(BATCH_MAX - 1)) {
                    write.insert(&keyspace, asked.key, asked.value);
                    answers.push(asked.answer);
                }
                write.commit().unwrap();
                for answer in answers {
                    answer.send(()).unwrap();
                }
            }
        });
        Self(sender)
    }

    /// Answers once the record is on the disk.
    pub(crate) async fn write(&self, key: [u8; 16], value: &[u8]) {
        let (answer, answered) = oneshot::channel();
        self.0.send(Asked { key, value: value.to_vec(), answer }).unwrap();
        answered.await.unwrap();
    }
}
