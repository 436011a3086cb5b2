//! Every replicated decision of Millstream, as pure state machines.
