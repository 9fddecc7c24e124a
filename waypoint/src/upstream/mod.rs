//! Reaching endpoints: which one, through a tunnel or in clear, on a connection at hand or a new one.

mod broken;
mod dial;
mod empty;
mod framed;
mod kept;
mod last_words;
mod live;
mod made;
mod pool;
mod request;
mod select;
mod tended;

pub use broken::broken_by;
pub use dial::{Stream, open, reason_of};
use empty::{Counted as CountedFrames, EmptyFrames, MOST as MOST_EMPTY_FRAMES};
pub use kept::Kept;
use last_words::LastWords;
pub use live::{Aim, Connected, Host, Live, Pending, Place, UnderWay};
pub use made::Made;
pub use pool::{Checkout, HttpPool, Lease, Sent, Unsent};
pub use request::{Beginning, Broken, RequestBody, Unread};
pub use select::{Candidate, Candidates, Destination, Wish, candidates, for_request};
pub(crate) use select::{TRIES, destination, destination_of, goes_on, none_usable, takes_requests};
pub use tended::{retire, sweep};
