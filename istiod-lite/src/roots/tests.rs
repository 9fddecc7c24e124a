mod rotation;
mod secrets;
