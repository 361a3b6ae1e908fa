//! Models of the hub, downloaded from a stand-in server that has the hub's endpoints.

mod common;

mod hub {
    mod downloads;
    mod failures;
    mod fake;
    mod opening;
    mod refusals;
    mod secure;
}
