# The front door.
{ rust, ... }:
rust.program {
  name = "chrysalis";
  package = "chrysalis";
  description = "Build, launch, verify and publish confidential virtual machines for AI";
}
