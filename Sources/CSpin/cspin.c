#include "CSpin.h"
