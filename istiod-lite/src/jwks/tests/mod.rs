mod client;
mod course;
mod served;
