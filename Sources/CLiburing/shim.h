// liburing.h asks for X/Open names, and with them fd_set has other members than in Swift's own view
// of the C library: the feature set is decided before.
#include <features.h>
#include <liburing.h>
