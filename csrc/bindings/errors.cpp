// Maps core/error.h to Python classes: each derives from the builtin that a NumPy user would catch.
#include <new>

#include "bindings/bindings.h"
#include "core/error.h"
#include "runtime/os_thread.h"
#include "runtime/thread_pool.h"

namespace quernel {
namespace {

// Ctrl-C inside native work: Python's own handler has set the exception by the time the poll returns true. Python runs
// handlers on its main thread alone; others need not queue for the GIL.
bool poll_signals() {
  if (!is_main_thread()) return false;
  py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

}  // namespace

void register_errors(py::module_& m) {
  static py::exception<Error> base(m, "QuernelError", PyExc_Exception);
  const auto derive = [&](const char* name, PyObject* builtin) {
    return py::reinterpret_steal<py::object>(PyErr_NewException(
        (std::string("quernel._core.") + name).c_str(), py::make_tuple(base, py::handle(builtin)).ptr(), nullptr));
  };
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::dict> classes;
  classes.call_once_and_store_result([&] {
    py::dict d;
    d["ShapeError"] = derive("ShapeError", PyExc_ValueError);
    d["ArgumentError"] = derive("ArgumentError", PyExc_ValueError);
    d["OutOfRangeError"] = py::reinterpret_steal<py::object>(
        PyErr_NewException("quernel._core.OutOfRangeError",
                           py::make_tuple(d["ArgumentError"], py::handle(PyExc_IndexError)).ptr(), nullptr));
    d["DTypeError"] = derive("DTypeError", PyExc_TypeError);
    d["StateError"] = derive("StateError", PyExc_RuntimeError);
    d["UnsupportedError"] = derive("UnsupportedError", PyExc_NotImplementedError);
    d["DeviceError"] = py::reinterpret_steal<py::object>(
        PyErr_NewException("quernel._core.DeviceError", d["UnsupportedError"].ptr(), nullptr));
    return d;
  });
  for (auto [name, cls] : classes.get_stored()) m.attr(name) = cls;

  py::register_exception_translator([](std::exception_ptr p) {
    const auto set = [](const char* name, const char* what) {
      PyErr_SetString(classes.get_stored()[name].ptr(), what);
    };
    try {
      if (p) std::rethrow_exception(p);
    } catch (const ShapeError& e) {
      set("ShapeError", e.what());
    } catch (const OutOfRangeError& e) {
      set("OutOfRangeError", e.what());
    } catch (const ArgumentError& e) {
      set("ArgumentError", e.what());
    } catch (const DTypeError& e) {
      set("DTypeError", e.what());
    } catch (const StateError& e) {
      set("StateError", e.what());
    } catch (const DeviceError& e) {
      set("DeviceError", e.what());
    } catch (const UnsupportedError& e) {
      set("UnsupportedError", e.what());
    } catch (const Interrupted&) {
      // The signal handler's exception is already set.
      if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
    }
  });
  set_interrupt_poll(poll_signals);
}

}  // namespace quernel
