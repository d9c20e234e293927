// Package failpoint lets a test end or hold the process at a named place between two durable steps.
//
// A place calls Hit with its name, for example failpoint.Hit("publish-committed"). Without the build tag failpoints that is
// an empty function which the compiler removes. With it, the environment variable WALFERRY_FAILPOINTS says what happens, as a
// comma-separated list of name=action:
//
//	name=kill            SIGKILL to this process: nothing is flushed, no deferred call runs
//	name=exit:3          os.Exit with that code
//	name=sleep:500ms     wait, then go on
//	name=stop            SIGSTOP to this process: it goes on when somebody sends SIGCONT
//	name=count:3:kill    the action after the second colon, the third time the place is reached and only then
//
// A value that cannot be understood ends the process with a message at the first Hit: a test whose fault is never injected
// must not pass.
//
// With the variable WALFERRY_FAILPOINT_TRACE such a build also notes in a file which places it has reached (Trace), so that a
// test which kills the process at a random moment can tell where that was. Add notes an amount there, for example of rows.
package failpoint
