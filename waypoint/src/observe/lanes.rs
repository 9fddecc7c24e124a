//! What waits for collectors: a queue for each, with a pace of its own, so that one that is slow or away keeps nothing from the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::mpsc;

use super::room::{Room, Taken};

/// A queue that nothing comes to for so long is given up, with what sends from it.
pub const IDLE: Duration = Duration::from_mins(1);
/// Bytes that may wait for all collectors together, or be on their way: many slow ones are not to take all memory.
const ALL: usize = 64 << 20;

/// The queues, by the clusters that collectors are reached by.
#[derive(Debug)]
pub struct Lanes<T> {
    open: RwLock<HashMap<Arc<str>, Lane<T>>>,
    /// What may wait in each.
    most: usize,
    /// Of all of them.
    room: Room,
    begun: mpsc::UnboundedSender<Begun<T>>,
    /// Until somebody sends from them.
    unbegun: Mutex<Option<mpsc::UnboundedReceiver<Begun<T>>>>,
}

/// A collector that something is said to, and the queue from which it is to be sent.
pub type Begun<T> = (Arc<str>, mpsc::Receiver<T>);

#[derive(Debug)]
struct Lane<T> {
    queue: mpsc::Sender<T>,
    room: Room,
}

impl<T> Clone for Lane<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), room: self.room.clone() }
    }
}

/// A place in a queue.
#[derive(Debug)]
pub struct Place<T> {
    place: mpsc::OwnedPermit<T>,
    rooms: [Room; 2],
}

/// Room that something takes until it was sent, or lost: of its collector's, and of all.
pub type Rooms = [Taken; 2];

impl<T> Lanes<T> {
    /// So many may wait for each.
    pub fn new(most: usize) -> Self {
        let (begun, unbegun) = mpsc::unbounded_channel();
        Self { open: RwLock::default(), most, room: Room::of(ALL), begun, unbegun: Mutex::new(Some(unbegun)) }
    }

    /// The queues as they come to be; nothing for any but the first who asks.
    pub fn begun(&self) -> Option<mpsc::UnboundedReceiver<Begun<T>>> {
        self.unbegun.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A place for something that is to be sent to the collector behind a cluster, if there is one left.
    pub fn place(&self, cluster: &Arc<str>) -> Option<Place<T>> {
        let Lane { queue, room } = self.lane(cluster);
        let place = queue.try_reserve_owned().ok()?;
        Some(Place { place, rooms: [room, self.room.clone()] })
    }

    /// Gives up a queue: who receives from it gets what is in it, and then its end. What comes for that collector later has a new one.
    pub fn give_up(&self, cluster: &str) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(cluster);
    }

    /// The ways into all queues that there are.
    pub fn queues(&self) -> Vec<mpsc::Sender<T>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).values().map(|lane| lane.queue.clone()).collect()
    }

    fn lane(&self, cluster: &Arc<str>) -> Lane<T> {
        let known = self.open.read().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned();
        if let Some(lane) = known {
            return lane;
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let lane = open.entry(cluster.clone()).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(self.most);
            // When the program ends nobody takes it any more, and there is no place in it.
            let _ending = self.begun.send((cluster.clone(), waiting));
            Lane { queue, room: Room::default() }
        });
        lane.clone()
    }
}

impl<T> Place<T> {
    /// Takes room for so many bytes, if there is so much left.
    pub fn room(&self, bytes: usize) -> Option<Rooms> {
        let [own, all] = &self.rooms;
        Some([own.take(bytes)?, all.take(bytes)?])
    }

    /// Puts something into it.
    pub fn put(self, said: T) {
        drop(self.place.send(said));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_for_one_collector_takes_no_place_of_another() {
        let lanes = Lanes::new(2);
        let mut begun = lanes.begun().unwrap();
        assert!(lanes.begun().is_none(), "one sends from them");
        let put = |cluster: &str, said: u32| lanes.place(&cluster.into()).map(|place| place.put(said)).is_some();
        assert!(put("slow", 1) && put("slow", 2) && !put("slow", 3));
        assert!(put("quick", 4));
        let (name, mut slow) = begun.try_recv().unwrap();
        assert_eq!((&*name, slow.len()), ("slow", 2));
        let (name, mut quick) = begun.try_recv().unwrap();
        assert_eq!((&*name, quick.recv().await), ("quick", Some(4)));
        assert!(begun.try_recv().is_err());

        // One that is given up is read to its end, and there is another for what comes later.
        lanes.give_up("slow");
        assert!(put("slow", 5));
        assert_eq!((slow.recv().await, slow.recv().await, slow.recv().await), (Some(1), Some(2), None));
        let (_, mut anew) = begun.try_recv().unwrap();
        assert_eq!(anew.recv().await, Some(5));
        assert_eq!(lanes.queues().len(), 2);
        drop(begun);
        assert!(!put("late", 6), "nobody sends it");
    }

    #[test]
    fn each_has_its_room_and_all_together_no_more_than_theirs() {
        const MIB: usize = 1 << 20;
        let lanes = Lanes::<Rooms>::new(100);
        let _begun = lanes.begun().unwrap();
        let fill = |cluster: &str| {
            let mut count = 0;
            while let Some(place) = lanes.place(&cluster.into())
                && let Some(room) = place.room(MIB)
            {
                place.put(room);
                count += 1;
            }
            count
        };
        assert_eq!(["a", "b", "c", "d", "e"].map(fill), [16, 16, 16, 16, 0]);
    }
}
