#![no_main]
shears_fuzz::run!("clipper_state");
