// What tests tell the fake driver (fake_driver.cpp), and what it tells them. The functions are found in the opened library.
#pragma once

namespace zoe::testing {

// Forgets log and problems and takes new orders, separated by ';':
//   memory BYTES            of the device
//   devices COUNT
//   capability MAJOR MINOR
//   linked 0                devices do not reach each other's memory
//   fail MEMBER NTH STATUS  the NTH call (from 1) of an entry point (driver.def's name, "any") answers STATUS and does nothing
//                           more, unless it frees something; 700 and above: so does every later call, as a lost device does
//   refuse MEMBER STATUS    every call of one entry point answers STATUS and does nothing
//   stale COUNT             the next COUNT programs are refused when they are loaded
//   reject TEXT             a source that holds TEXT does not compile
using FakeOrder = void (*)(const char* orders);
// One line a call: its member name and arguments, objects numbered in the order of their making.
using FakeLog = const char* (*)();
// Calls that no correct program makes, one a line.
using FakeProblems = const char* (*)();
// What was made and not freed, one a line.
using FakeAlive = const char* (*)();
// Lets time pass between events; between two of one moment 1 ms did.
using FakePass = void (*)(double milliseconds);

// In a process of its own: orders are read from the variable ZOE_FAKE_ORDERS, and problems and what is alive at the end are
// written to the file that ZOE_FAKE_REPORT names.

}  // namespace zoe::testing
